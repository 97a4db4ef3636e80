"""Sizes, agreement and first values as one Markdown document."""

import importlib.metadata
import platform

import torch

from experiments.parity import counts, inits, peers, reference
from experiments.parity.compare import worst


def rows(progress=lambda name: None):
    """Every comparison's Rows, case by case. Raises DataError where `transformers` or the recorded numbers are missing."""
    peers.transformers()
    for name, case in peers.CASES.items():
        progress(name)
        yield from peers.compare(case)
    for name in reference.NAMES:
        progress(name)
        yield from reference.compare(name)


def document(compared, sizes=None):
    """The whole as Markdown. compared: Rows. sizes: {name: (expected, measured)}, by default measured now."""
    sizes = sizes or {name: (size, counts.measured(name, size)) for name, size in counts.expected().items()}
    return "\n".join([*_head(), *_agreement(compared), *_sizes(sizes), *_inits()]) + "\n"


def _head():
    versions = {"torch": torch.__version__, "transformers": importlib.metadata.version("transformers")}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "# What agrees with whom"
    yield ""
    yield "Made by `python -m experiments parity --out docs/parity.md`; do not edit. The tests hold the same comparisons to the"
    yield f"same bounds. Compared with {shown}, and with numbers recorded from"
    yield f"google-deepmind/recurrentgemma 2efa84d (`tests/fixtures`); float32 on CPU, {platform.machine()}."


def _agreement(compared):
    yield ""
    yield "## Agreement"
    yield ""
    yield "Random weights, large enough that scores exceed their softcap and logits theirs, every norm weight and bias drawn."
    shapes = f"{peers.ROWS} rows of {peers.SHORT} and of {peers.LONG} tokens"
    yield f"`transformers`, eager: {shapes}, windows of 5 keys; decoding is token by token from a"
    yield f"cache, from token {peers.PREFILL + 1} to {peers.LONG}. The reference code: two packed documents a row, windows of 9."
    yield ""
    yield "The largest error of each kind: of logits, hidden states and decoded logits over the largest of them (of the"
    yield "reference code's, norm of the error over norm), of losses relative, of gradients the worst parameter's, norm of the"
    yield "error over norm."
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
    yield "Parameters to the last digit; cache bytes of one bfloat16 stream."
    yield ""
    yield "| spec | non-embedding | embedding | cache bytes | source | |"
    yield "|---|---|---|---|---|---|"
    for name, (expected, ours) in sizes.items():
        caches = "; ".join(f"{bytes_:,} at {context:,}" for context, bytes_ in ours.cache.items()) or "-"
        verdict = "equal" if expected == ours else f"**differs**: expected {expected}"
        yield f"| `{name}` | {ours.non_embedding:,} | {ours.embedding:,} | {caches} | {expected.source} | {verdict} |"


def _inits():
    yield ""
    yield "## First values, side by side"
    yield ""
    yield "| what | chosen by | source | measured on a drawn model |"
    yield "|---|---|---|---|"
    for first in inits.rows():
        yield f"| {first.what} | {first.chosen_by} | {first.source} | {first.measured} |"
