"""What every test shares: a tiny experiment on a corpus of its own, and a cache that is thrown away."""

import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

WORDS = "the cat sat on a mat and saw one bird that sang of rain over old green hills by night".split()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tokens are cached for the test run, not in the user's own cache."""
    monkeypatch.setenv("ARCHBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """A text file of many short documents, one a line of a jsonl."""
    import json

    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) for _ in range(400))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture
def tiny(corpus_file):
    """A complete experiment, small enough for seconds, as plain data."""
    return {
        "model": {
            "dim": 16,
            "vocab_size": 300,
            "layers": 3,
            "pattern": ["rec", "local", "global"],
            "blocks": {
                "local": {
                    "mixer": {"type": "attention", "heads": 2, "kv_heads": 1, "head_dim": 8, "window": 4},
                    "ffn": {"type": "gated", "hidden": 24},
                },
                "global": {"like": "local", "mixer": {"window": None}},
                "rec": {"like": "local", "mixer": {"type": "rg_lru", "blocks": 2}},
            },
        },
        "data": {
            "source": {"type": "text", "files": [str(corpus_file)], "field": "text"},
            "tokenizer": {"type": "byte"},
            "context": 32,
            "rows": 4,
        },
        "optimizer": {"lr": 3e-3},
        "train": {"steps": 12, "checkpoint_every": 3},
        "evaluate": {"every": 4, "select_rows": 4, "report_rows": 4, "sample_tokens": 5},
    }
