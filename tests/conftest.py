"""Fixtures for all tests: a tiny experiment on its own corpus, and a temporary token cache."""

import os
import random
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "bird",
    "that",
    "sang",
    "of",
    "rain",
    "over",
    "old",
    "green",
    "hills",
    "by",
    "night",
]


@pytest.fixture(scope="session")
def tests_cache(tmp_path_factory):
    """The cache that all tests share, also those of another worker: what is prepared or compiled once serves them all.

    `ARCHBENCH_TEST_CACHE` names a folder that outlives them.
    """
    own = tmp_path_factory.getbasetemp()
    return os.environ.get("ARCHBENCH_TEST_CACHE") or str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache")


@pytest.fixture(autouse=True)
def own_cache(tests_cache, monkeypatch):
    """Keep the caches of the tests out of the user's."""
    monkeypatch.setenv("ARCHBENCH_CACHE", tests_cache)


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory):
    """Forget what a test imported from its own folder: another test's file may have the same name."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """What is printed does not depend on the width of the terminal in which the tests run, nor on what a test left behind."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """A .jsonl file of many short documents, one per line."""
    import json

    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) for _ in range(400))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture
def tiny(corpus_file):
    """A complete experiment as plain data, small enough to run in seconds."""
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


@pytest.fixture
def made_up_benchmark():
    """`made_up_benchmark(device="cpu", started=..., slower=1.0)`: a BenchRecord with a value for every target."""
    from experiments.bench.record import BenchRecord, Measurement, Profile

    def timed(what, side, case, seconds, work=1.0, of=""):
        return Measurement(what=what, side=side, case=case, values=[seconds, 1.1 * seconds], work=work, of=of)

    def weighed(what, side, case, size, **facts):
        return Measurement(what=what, side=side, case=case, unit="B", values=[size], facts=facts)

    def make(device="cpu", started="2025-11-21T08:00:00+00:00", slower=1.0):
        specs = ("small/gemma3", "small/gemma2", "small/recurrentgemma") if device == "cpu" else ("medium/gemma3",)
        contexts = (512, 4096) if device == "cpu" else (4096, 32768)
        sides = {"ours": 2.0 * slower, "compiled": 1.8, "hf": 4.0, "products": 1.5}
        found = [timed("ceiling", "square product", {}, 0.1, 2e10, "FLOP"), timed("ceiling", "copy", {}, 0.01, 2e8, "B")]
        for spec in specs:
            for context in contexts:
                case = {"spec": spec, "context": context}
                found += [timed("train", side, case, seconds, 4096.0, "tokens") for side, seconds in sides.items()]
                found += [timed("train stock", side, case, sides[side], 4096.0, "tokens") for side in ("ours", "hf")]
                found += [weighed("memory", side, case, 3e8 * size) for side, size in (("ours", 1), ("hf", 2))]
            for batch in (1, 16):
                case = {"spec": spec, "context": 2000, "batch": batch}
                for what in ("prefill", "decode", "prefill stock", "decode stock"):
                    found += [timed(what, side, case, sides[side], 32.0, "tokens") for side in ("ours", "hf")]
                found.append(weighed("cache", "ours", case, 4096.0, **{"arch.cost": 4096}))
        if device == "cpu":
            case = {"spec": "small/gemma3", "context": 512}
            found.append(timed("train", "hf-compiled", case, 3.0, 4096.0, "tokens"))
            found += [timed("quantised step", side, case, seconds, 4096.0) for side, seconds in (("plain", 2.0), ("q4_0", 2.2))]
            found += [timed("answers", side, {"spec": "small/gemma3", "batch": 16}, 0.5, 512.0) for side in ("answers", "generate")]
            case = {"spec": "small/gemma3_vision", "context": 512}
            found += [timed("images", side, case, s, 4096.0) for side, s in (("text", 1.0), ("images", 1.4), ("products", 1.1))]
            found[-3].facts["flops"], found[-2].facts["flops"] = 1e9, 1.5e9
            for spec in ("small/gemma3", "medium/gemma3"):
                case = {"spec": spec, "context": 2000, "batch": 1}
                found += [timed("decode", f"{side} bfloat16", case, 1.5, 32.0, "tokens") for side in ("ours", "llama.cpp")]
                found += [timed("decode", "llama.cpp", case, 2.5, 32.0, "tokens")]
            found.append(timed("decode", "ours", case, 2.0 * slower, 32.0, "tokens"))
            found += encoding(timed, weighed, {"spec": "small/embeddinggemma", "context": 512})
        for shape in ([8, 512, 256], [1, 4096, 256], [4, 2048, 1024]):
            case = {"shape": shape}
            found += [timed("scan", side, case, 0.01, 1e8, "B") for side in ("ours", "fresh a * b")]
        for model in ("window-only", "recurrent"):
            found += [timed("reach", context, {"model": model}, 4.0, 16384.0, "tokens") for context in ("2048", "16384")]
        found += [timed("decode reach", context, {"model": "r"}, 0.2, 32.0, "tokens") for context in ("1024", "32768")]
        case = {"vocabulary": 262_144}
        found += [timed("loss", side, case, 20.0) for side in ("ours", "plain")]
        sides = {"plain": 2.0, "online": 3.05, "cached": 2.1, "prefill": 1.0, "write sampled": 1.1, "write top_k": 1.1}
        found += [timed("distill", side, {"k": 256}, seconds, 2048.0, "tokens") for side, seconds in sides.items()]
        found.append(weighed("loss memory", "ours", case, 5e8))
        found += [timed("lightning", side, {}, seconds, 199.0) for side, seconds in (("lightning", 0.5), ("bare", 0.3))]
        found += [timed("first step", "next run", {}, 0.8), timed("help", "ours", {}, 0.4)]
        cost = {"flops_per_token": {"ideal": {"train": 1e6}}}
        return BenchRecord(
            status="finished",
            asked={
                "against": ["hf", "hf-compiled", "llama.cpp"],
                "compile": True,
                "device": device,
                "dtype": "float32",
                "decode_types": ["bfloat16"],
                "tokens": 4096,
            },
            costs={f"{spec}@{context}": cost for spec in specs for context in contexts},
            measurements=found,
            profiles=[Profile(case={"spec": specs[0], "context": 512}, seconds=2.0, kinds={"matrix products": 1.1})],
            versions={"torch": "2.13.0"},
            git={"commit": "cb826d1", "dirty": False},
            hardware={"cpu": "a synthetic CPU", "cores": 2} | ({"gpu": "a synthetic GPU"} if device == "cuda" else {}),
            threads=2,
            allocator={"mallopt": {"M_MMAP_MAX": 0}, "preloaded": []},
            started=started,
            notes=["something was left out"],
        )

    return make


def encoding(timed, weighed, case):
    """What the benchmark of encoders measures."""
    sides = {
        "ours": 1.0,
        "ours bfloat16": 0.6,
        "sentence-transformers": 1.5,
        "sentence-transformers bfloat16": 1.3,
        "products": 0.8,
    }
    encoded = [
        timed("encode", side, case | {"texts": texts}, seconds, 4096.0, "tokens")
        for texts in ("full", "functions")
        for side, seconds in sides.items()
    ]
    for each in encoded:
        each.facts["padding"] = 0.03
    steps = [
        timed("contrastive", side, case | {"rows": rows}, seconds)
        for rows in (8, 32)
        for side, seconds in (("plain", 1.0), ("GradCache", 1.3))
    ]
    held = [weighed("contrastive memory", side, case, 1e8) for side in ("GradCache", "more rows")]
    streams = [weighed("stream memory", "ours", {"texts": texts}, 5e7) for texts in (20_000, 100_000)]
    return [*encoded, *steps, *held, *streams]


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder on the path with an objective, an evaluator and a dataset of a user's own, one file each."""
    import shutil
    from pathlib import Path

    monkeypatch.syspath_prepend(tmp_path)
    for path in (Path(__file__).parent / "plugins").glob("*.py"):
        shutil.copy(path, tmp_path)
    return tmp_path
