"""All comparisons as one Markdown document: agreement, sizes and initial values."""

import importlib.metadata
import platform

import torch

from experiments.parity import counts, encoder_decoder, inits, memory, peers, reference, sentence, vision
from experiments.parity.compare import worst


def rows(progress=lambda name: None):
    """Yields the Rows of every case. Raises DataError if `transformers` or the recorded numbers are missing."""
    peers.transformers()
    for name, case in peers.CASES.items():
        progress(name)
        yield from peers.compare(case)
    for name in reference.NAMES:
        progress(name)
        yield from reference.compare(name)
    progress("sentence-transformers")
    yield from sentence.compare()
    progress("vision")
    yield from vision.compare()
    for name in encoder_decoder.FOLDERS:
        progress(name)
        yield from encoder_decoder.compare(name)


def document(compared, sizes=None):
    """The document as Markdown. compared: Rows. sizes: {name: (expected, measured)}, by default measured now."""
    sizes = sizes or {name: (size, counts.measured(name, size)) for name, size in counts.expected().items()}
    return "\n".join([*_head(), *_agreement(compared), *_sizes(sizes), *memory.section(), *_inits()]) + "\n"


def _head():
    versions = {"torch": torch.__version__, "transformers": importlib.metadata.version("transformers")}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "# Agreement with other implementations"
    yield ""
    yield "Written by `archbench parity --out docs/parity.md`; do not edit. The tests make the same"
    yield f"comparisons with the same bounds. Versions: {shown}. The outputs of the reference"
    yield (
        "code were recorded from google-deepmind/recurrentgemma 2efa84d, those of sentence-transformers from release 6.2.0,\n"
        "those of T5Gemma and T5Gemma 2 from transformers 5.23.0 (`tests/fixtures`). Everything is in float32 on a CPU,\n"
        f"{platform.machine()}."
    )


def _agreement(compared):
    yield ""
    yield "## Agreement"
    yield ""
    yield (
        "All weights are random, norm weights and biases included. In the comparison with `transformers` they are large\n"
        "enough that attention scores and logits exceed their softcaps."
    )
    shapes = f"{peers.ROWS} rows of {peers.SHORT} and of {peers.LONG} tokens"
    yield f"`transformers` has eager attention, {shapes}, and windows of 5 keys. Decoding is token by"
    yield (
        f"token from a cache, from token {peers.PREFILL + 1} to {peers.LONG}. "
        "The reference code has windows of 9 keys, and two packed documents per\nrow (one in the case `recurrentgemma`)."
        " sentence-transformers has three texts of\n3 to 64 tokens, with the prompts for queries and for documents and "
        "without one, and vectors cut to 8 numbers;\n`make test-embedding` compares with the library itself."
    )
    yield ""
    yield (
        "The table shows the largest error of each kind:\n\n"
        "* logits, decoded logits, hidden states, encoder states, vectors of texts: the largest absolute error over the\n"
        "  largest absolute value; against the reference code, the error's norm over the norm."
    )
    yield "* loss: the relative error."
    yield "* masks: the number of pairs of query and key that one of them sees alone, in a global and in a local layer."
    yield "* gradients: the error's norm over the gradient's norm, of the parameter with the largest."
    yield ""
    kinds = list(dict.fromkeys(row.what for row in compared))
    yield f"| against | case | {' | '.join(kinds)} | bound | |"
    yield "|---" * (len(kinds) + 4) + "|"
    cases = {}
    for row in compared:
        cases.setdefault((row.against, row.case), []).append(row)
    for (against, case), rows in cases.items():
        errors = [worst([row.error for row in rows if row.what == kind] or [-1.0]) for kind in kinds]
        shown = " | ".join("" if error == -1 else f"{error:.1e}" for error in errors)
        verdict = "agrees" if all(row.agrees for row in rows) else "**differs**"
        yield f"| {against} | {case} | {shown} | {rows[0].bound:.0e} | {verdict} |"


def _sizes(sizes):
    yield ""
    yield "## Sizes"
    yield ""
    yield "Parameters are compared exactly. Cache bytes are those of one bfloat16 stream at the given number of tokens."
    yield ""
    yield "| spec | non-embedding | embedding | vision | cache bytes | source | |"
    yield "|---|---|---|---|---|---|---|"
    for name, (expected, ours) in sizes.items():
        caches = "; ".join(f"{bytes_:,} at {context:,}" for context, bytes_ in ours.cache.items()) or "-"
        verdict = "equal" if expected == ours else f"**differs**: expected {expected}"
        tower = f"{ours.vision:,}" if ours.vision else "-"
        yield f"| `{name}` | {ours.non_embedding:,} | {ours.embedding:,} | {tower} | {caches} | {expected.source} | {verdict} |"


def _inits():
    yield ""
    yield "## Initial values"
    yield ""
    yield "| what | chosen by | source | measured on a drawn model |"
    yield "|---|---|---|---|"
    for first in inits.rows():
        yield f"| {first.what} | {first.chosen_by} | {first.source} | {first.measured} |"
