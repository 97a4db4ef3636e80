"""Compare our models with other implementations and published numbers.

`peers`: classes of Hugging Face's `transformers`, run beside ours. `reference`: recorded outputs of the reference
Griffin code. `sentence`: recorded outputs of sentence-transformers. `counts`: published sizes. `inits`: initial values.
`table`: all comparisons as Markdown.
"""
