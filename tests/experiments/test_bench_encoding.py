"""The benchmark of encoders: what it compares and records. No test depends on speed."""

import json
import os

import numpy as np
import pytest
import torch

from arch import document
from arch.encoding import load_encoder
from arch.errors import SpecError
from experiments.bench import encoding, kernels
from experiments.bench.record import BenchRecord, Measurement
from experiments.bench.run import bench
from experiments.bench.sides import Ours, contrastive_objective
from experiments.bench.spec import TARGETS, BenchSpec
from experiments.bench.table import tables

CPU = torch.device("cpu")
NAME = "small/embeddinggemma"
CODE = [f"def function_{i}(a, b):\n    return [a + {i} * b for b in range({i})]\n" * (1 + i % 5) for i in range(40)]


def tiny(**changes):
    own = {"dim": 32, "vocab_size": 300, "project": [48, 16], "blocks.local.ffn.hidden": 48}
    own |= {f"blocks.local.mixer.{key}": value for key, value in {"heads": 2, "head_dim": 16}.items()}
    return kernels.shipped(NAME, **own | {"blocks.local.mixer.window": {"before": 4, "after": 4}} | changes)


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "tiny.yaml"
    path.write_text(json.dumps(tiny().dump()))
    return str(path)


@pytest.fixture
def few_texts(monkeypatch):
    monkeypatch.setattr(encoding, "texts_of", lambda count: CODE[:count])
    monkeypatch.setattr(encoding, "in_child", lambda function, *args, threads: {"before": 10, "peak": 30})


def asked(spec_file, **options):
    given = {"specs": [spec_file], "contexts": [32], "tokens": 256, "batches": [4], "repeats": 1, "threads": 1}
    return document.node(given | {"measure": ["encode", "stream", "contrastive"]} | options)


def test_an_encoder_is_measured_whole(spec_file, few_texts, tmp_path):
    record = bench(asked(spec_file, decode_types=["bfloat16"]), tmp_path, tell=lambda line: None)
    assert record.status == "finished" and not record.failures
    found = {(each.what, each.side, each.case.get("texts")) for each in record.measurements if each.what != "ceiling"}
    sides = ("ours", "ours bfloat16", "products")
    assert found == {
        *(("encode", side, texts) for side in sides for texts in ("full", "functions")),
        *(("contrastive", side, None) for side in ("plain", "GradCache")),
        *(("contrastive memory", side, None) for side in ("plain", "GradCache", "more rows")),
        *(("stream memory", "ours", texts) for texts in encoding.STREAMS),
    }
    whole = record.find("encode", "ours", texts="full")
    assert whole.work == 4 * 32 and whole.facts["padding"] == 0 and whole.facts["texts"] == 4
    code = record.find("encode", "ours", texts="functions")
    assert 0 <= code.facts["padding"] < 0.3 and code.work <= 40 * 32
    assert record.find("contrastive memory", "more rows").case["rows"] == 4 * record.find("contrastive", "plain").case["rows"] == 32
    tables(record)


def test_what_is_encoded_are_the_weights_of_the_spec(tmp_path):
    encoding.write(tiny(), tmp_path / "ours", CODE, 32)
    encoder = load_encoder(tmp_path / "ours")
    found = encoder.encode(CODE)
    assert found.shape == (40, 16) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert encoder.max_tokens == 32 and encoder.ends.eos is not None
    assert all(part.cut for part in encoder.stream(encoding.full(CODE, 4, 32)))


@pytest.mark.parametrize("parts", [2, 4])
def test_grad_cache_takes_the_step_of_a_plain_one(parts):
    sides = [Ours(tiny(), CPU, "float32", objective=contrastive_objective()) for _ in "ab"]
    for side, own in zip(sides, (1, parts), strict=True):
        step = side.training_on_pairs(8, 16, own)
        step(), step()
    for one, other in zip(*(side.model.parameters() for side in sides), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "measure, specs, text",
    [
        (["train"], None, "is an encoder, of which encode, stream, contrastive can be measured, not train"),
        (
            ["encode"],
            ["small/gemma3"],
            "is no encoder and has no `vision`, "
            "of which train, decode, memory, profile, quantise, answers can be measured, not encode",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_anything_is_measured(measure, specs, text, spec_file, tmp_path):
    with pytest.raises(SpecError, match=f"specs.0: .*{text}"):
        bench(asked(spec_file, measure=measure, **({"specs": specs} if specs else {})), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_micro_batches_do_not_divide_are_refused_before_anything_is_measured(spec_file, tmp_path):
    with pytest.raises(SpecError, match="tokens: 96 tokens are 3 rows of 32; expected a multiple of 4"):
        bench(asked(spec_file, tokens=96, measure=["contrastive"]), tmp_path / "out", tell=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_the_targets_are_of_the_shipped_benchmark():
    shipped = BenchSpec.parse(document.load("encoding", "bench"))
    case = {"spec": shipped.specs[0], "context": shipped.contexts[0]}

    def timed(what, side, seconds, **more):
        return Measurement(what=what, side=side, case=case | more, values=[seconds], work=10, facts={"padding": 0.02})

    def held(what, side, size, **more):
        return Measurement(what=what, side=side, case=case | more, values=[size], unit="B")

    texts = [
        timed("encode", f"{side}{end}", seconds, texts=name)
        for name in ("full", "functions")
        for end in ("", " bfloat16")
        for side, seconds in (("ours", 1.0), ("sentence-transformers", 1.5))
    ]
    rest = [
        timed("encode", "products", 0.7, texts="full"),
        timed("contrastive", "plain", 1.0, rows=8), timed("contrastive", "GradCache", 1.2, rows=8),
        held("contrastive memory", "GradCache", 100.0, rows=8), held("contrastive memory", "more rows", 104.0, rows=32),
        held("stream memory", "ours", 50.0, texts=20_000), held("stream memory", "ours", 51.0, texts=100_000),
    ]  # fmt: skip
    record = BenchRecord(status="finished", asked=shipped.dump(), measurements=texts + rest)
    found = {target.what: target for target in TARGETS if target.measured(record)}
    assert len(found) == 9
    ratios = sorted(round(target.measured(record).median, 2) for target in found.values())
    assert ratios == [0.02, 0.7, 1.02, 1.04, 1.2, 1.5, 1.5, 1.5, 1.5]
    missed = [what for what, target in found.items() if target.missing(target.measured(record))]
    assert len(missed) == 2 and all("bfloat16" in what for what in missed)


def test_sentence_transformers_gives_our_vectors(spec_file, few_texts, tmp_path):
    """`make test-embedding` installs it."""
    if not os.environ.get("ARCHBENCH_NEEDS_EMBEDDING"):
        pytest.importorskip("sentence_transformers")
    options = {"measure": ["encode"], "against": ["sentence-transformers"]}
    record = bench(asked(spec_file, **options), tmp_path, tell=lambda line: None)
    assert record.status == "finished"
    for texts in ("full", "functions"):
        theirs = record.find("encode", "sentence-transformers", texts=texts)
        assert theirs.facts["largest difference of a number"] < 1e-5
