"""The package `gguf`, llama.cpp's own, reads our files and writes the same bytes. `make test-gguf` installs it and runs this."""

import os

import numpy as np
import pytest
import torch
from gguf_files import Read, saved

from arch import quantised, registry
from arch.gguf import architectures
from arch.gguf.export import export

if not os.environ.get("ARCHBENCH_NEEDS_GGUF"):
    pytest.importorskip("gguf", reason="the extra `gguf` is not installed; `make test-gguf` installs it")
NAMES = ("gemma2", "gemma3", "gemma-embedding")
ROLES = ("embedding", "attention", "matrix")
each = pytest.mark.parametrize("name", NAMES)


@each
@pytest.mark.parametrize("kind", [None, "q4_0", "q8_0"])
def test_its_reader_gives_back_what_we_compute_with(name, kind, tmp_path):
    import gguf

    quantise = {"quantise": {role: {"type": kind} for role in ROLES}} if kind else {}
    folder, model = saved(tmp_path / "c", name=name, **quantise)
    export(folder, tmp_path / "f")
    found = {each.name: each for each in gguf.GGUFReader(tmp_path / "f").tensors}
    roles = {ours: role for _, ours, role, _ in quantised.weights(model)}
    for ours, weight in model.named_parameters():
        theirs = found.pop(architectures.place(ours))
        assert list(reversed(theirs.shape)) == list(weight.shape), ours
        values = gguf.quants.dequantize(theirs.data, theirs.tensor_type).reshape(weight.shape)
        wanted = weight.detach() if weight.ndim == 2 else 1 + weight.detach()
        if kind and ours in roles:
            wanted = registry.build("quantiser", {"type": kind}).rounded(wanted)
        assert values.dtype == np.float32 and np.array_equal(values, wanted.numpy()), ours
    assert not found


@each
def test_its_names_are_those_of_the_file(name, tmp_path):
    """Every key and every tensor is one that the package knows for this architecture, and none that it needs is missing."""
    import gguf

    folder, _ = saved(tmp_path / "c", name=name)
    export(folder, tmp_path / "f")
    found, known = Read(tmp_path / "f"), set()
    parts = [gguf.Keys]
    for part in parts:
        parts += [each for each in vars(part).values() if isinstance(each, type)]
        known |= {each for each in vars(part).values() if isinstance(each, str)}
    known = {key.replace("{arch}", name).replace("{dense}", dense) for key in known for dense in ("dense_2", "dense_3")}
    assert found.about.keys() <= known
    architecture = next(each for each, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    places = {gguf.TENSOR_NAMES[each] for each in gguf.MODEL_TENSORS[architecture]}
    layers = {place.format(bid=i) for place in places if "{bid}" in place for i in range(7)}
    top = {place for place in places if "{bid}" not in place}
    ours = {key.removesuffix(".weight") for key in found.tensors}
    assert ours <= layers | top
    optional = {"output", "dense_2", "dense_3", *(f"blk.{i}.attn_qkv" for i in range(7))}
    assert (layers | top) - ours <= optional


@each
def test_its_writer_gives_the_same_bytes(name, tmp_path):
    import gguf

    folder, _ = saved(tmp_path / "c", name=name)
    export(folder, tmp_path / "f", quantise={"matrix": "q4_0"})
    ours, read = Read(tmp_path / "f"), gguf.GGUFReader(tmp_path / "f")
    writer = gguf.GGUFWriter(tmp_path / "g", name)
    for field in read.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        value = ours.about[field.name]
        if inner is gguf.GGUFValueType.INT32:
            value = [np.int32(each) for each in value] and list(value)
        writer.add_key_value(field.name, value, field.types[0], inner)
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert (tmp_path / "g").read_bytes() == (tmp_path / "f").read_bytes()


def test_a_dequantised_block_is_the_packages(tmp_path):
    import gguf

    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for kind, theirs in (("q4_0", gguf.GGMLQuantizationType.Q4_0), ("q8_0", gguf.GGMLQuantizationType.Q8_0)):
        blocks = registry.build("quantiser", {"type": kind}).pack(weight)["blocks"].numpy()
        assert np.array_equal(blocks, gguf.quants.quantize(weight.numpy(), theirs))
