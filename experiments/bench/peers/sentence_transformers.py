"""sentence-transformers (Apache-2.0) with a folder that we exported, in a process of its own, as its users run it."""

from arch.cost import DTYPES


class SentenceTransformers:
    """The encoder of an exported folder. dtype: of its weights. Each text is at most as long as the folder says."""

    def __init__(self, folder, device, dtype):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device=str(device), model_kwargs={"dtype": DTYPES[dtype]})

    def encode(self, texts, batch_rows):
        """The vectors of texts, (N, E) float32 in NumPy."""
        return self.model.encode(list(texts), batch_size=batch_rows, show_progress_bar=False)
