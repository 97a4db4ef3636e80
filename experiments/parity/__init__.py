"""Our models against others' code and numbers: what agrees, and to within how much.

`peers`: classes of Hugging Face's `transformers`, run beside ours. `reference`: recorded numbers of the reference
Griffin code. `counts`: published sizes. `inits`: first values side by side. `table`: all of it as Markdown.
"""
