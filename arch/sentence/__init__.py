"""Folders of sentence-transformers: a trunk as `transformers` saves it, and beside it what makes one vector of a text.

`read` takes such a folder apart, `write` makes one, `configs` knows its JSON files, and `texts` is about the tokens of a text
in it. The library itself is not needed.
"""

# What says which modules there are, in their order; what belongs to all of them; how texts become tokens.
MODULES, SETTINGS, TEXTS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
# {a mode of their Pooling: the type of our pool}
POOLS = {"mean": "mean", "cls": "first", "lasttoken": "last"}
# Without the name of an activation in its config, their Dense has a Tanh.
IDENTITY = "torch.nn.modules.linear.Identity"
# The name of the one tensor of a Dense without a bias.
DENSE = "linear.weight"


def dense(number: int) -> str:
    """The usual folder of the map with this number, from 0. The trunk is module 0, the pool is 1."""
    return f"{number + 2}_Dense"


def behind(pool: str, project: list[int]) -> dict[str, object]:
    """The keys of a ModelSpec for what stands behind the trunk. It has no head, so what a config.json says of one is left out."""
    return {"pool": {"type": pool}, "project": project, "tie_embeddings": True, "logit_softcap": None}
