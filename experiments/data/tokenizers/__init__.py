"""Tokenizers, one per file.

`train(texts)` returns a `tokenizers.Tokenizer`; `byte_lengths(trained)` returns the UTF-8 bytes that each of its tokens
stands for.
"""
