"""Our models as GGUF files, which llama.cpp computes with.

`file.py` is the format, `architectures.py` what llama.cpp computes and which of our models that is exactly, `vocabulary.py` the
tokenizer, `export.py` a checkpoint as a file.
"""
