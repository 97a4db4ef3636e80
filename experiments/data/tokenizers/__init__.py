"""How text becomes tokens, one tokenizer a file: `train(texts)` gives a `tokenizers.Tokenizer`, `byte_lengths` its sizes."""
