"""The systems of the four papers, and of each what is built, proven, trained and judged: what `archbench list` begins with.

A line below names what it stands on. Whether that is there is looked up: options in the components, rows that agree in
`docs/parity.md`, tests among the tests, runs and verdicts in the records of studies.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from arch import document, registry, units
from arch.errors import SpecError
from arch.words import times
from sweeps.catalog import SMOKE, Entry, in_order
from sweeps.claims.equivalent import BASELINE

GEMMA2, GEMMA3, GRIFFIN, EMBEDDING = "Gemma 2", "Gemma 3", "RecurrentGemma, Griffin", "EmbeddingGemma"
PARITY = "docs/parity.md"
AGREES, DIFFERS = ("agrees", "equal"), "**differs**"
CLAIMS = "claims.csv"  # beside a study's report: its verdicts


@dataclass(frozen=True)
class System:
    """A part of what a paper describes.

    built: what a spec says to have it, `mixer attention.window` (kind, name, option), `model.vision`, or a shipped spec
    (`gemma3/27b`). proven: rows of docs/parity.md by what stands in their first two cells, or files of tests that compare with
    recorded values. studies: shipped ones in which it is trained and judged.
    """

    paper: str
    what: str
    built: tuple[str, ...]
    proven: tuple[str, ...]
    studies: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


# (what, built, proven, studies), of each paper.
_LINES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    GEMMA2: (
        (
            "local and global attention in turns",
            "mixer attention.window, gemma2/27b",
            "Gemma2ForCausalLM",
            "gemma3/local_global, gemma2/window_at_inference, gemma2/window_and_softcap",
        ),
        ("grouped-query attention", "mixer attention.kv_heads", "Gemma2ForCausalLM", "gemma2/gqa"),
        (
            "softcaps",
            "mixer attention.softcap, model.logit_softcap",
            "Gemma2ForCausalLM",
            "gemma2/softcap, gemma2/window_and_softcap",
        ),
        ("wide and deep models of one size", "model.layers", "gemma2/9b", "gemma2/depth"),
        ("distillation from a teacher's logits", "objective distill", "tests/experiments/test_distill.py", "gemma2/distillation"),
        (
            "post-training: a teacher's answers, own answers, rewards, merging",
            "objective sft.teacher, objective on_policy, objective best_of_n, merge slerp",
            "tests/experiments/test_post_training.py, tests/experiments/test_merges.py",
            "gemma2/post_training",
        ),
        (
            "memorization of training data",
            "evaluator memorization",
            "tests/experiments/test_evaluators_text.py",
            "gemma/memorization",
        ),
    ),
    GEMMA3: (
        (
            "five local layers to a global one, short windows",
            "mixer attention.window, gemma3/27b",
            "Gemma3ForCausalLM",
            "gemma3/local_global, gemma3/window",
        ),
        ("norms of queries and keys", "mixer attention.qk_norm", "Gemma3ForCausalLM", "gemma3/qk_norm"),
        ("long context by scaled positions", "mixer attention.rope", "global positions / 8", "gemma3/long_context"),
        ("memory of keys and values", "evaluator state_bytes", "gemma3/27b", "gemma3/kv_memory, search/quality_vs_cache"),
        (
            "distillation from sampled logits; small and large teachers",
            "objective distill.mode",
            "tests/experiments/test_distill.py",
            "gemma3/sampled_logits, gemma3/few_logits, gemma3/teacher_size",
        ),
        (
            "vision: SigLIP, soft tokens",
            "model.vision, tower siglip, gemma3/27b_vision",
            "Gemma3ForConditionalGeneration",
            "gemma3/resolution, gemma3/span_rule",
        ),
        ("Pan & Scan", "source pages.crops", "tests/arch/test_images.py", "gemma3/pan_and_scan"),
        (
            "training with rounded weights",
            "model.quantise, quantiser q4_0, quantiser int4_channel, quantiser sfp8",
            "tests/arch/test_quantisers.py",
            "gemma3/qat",
        ),
        ("chat format", "source conversations.template", "tests/arch/test_chat_template.py", "gemma3/format"),
        (
            "rewards and averages of policies (BOND, WARM, WARP)",
            "objective best_of_n, objective reward_weighted, merge mean, merge ema",
            "tests/experiments/test_post_training.py, tests/experiments/test_merges.py",
            "gemma2/post_training",
        ),
    ),
    GRIFFIN: (
        (
            "RG-LRU and its gates",
            "mixer rg_lru.decay_init, hawk/1.3b",
            "reference code: hawk",
            "griffin/gates, griffin/gates_again, griffin/decay_init",
        ),
        (
            "recurrence with local attention",
            "griffin/1.3b, recurrentgemma/9b",
            "reference code: griffin, RecurrentGemmaForCausalLM",
            "griffin/ratio, griffin/parts, griffin/window, griffin/versus_global, griffin/scaling",
        ),
        (
            "a state of constant size: long texts, decoding",
            "evaluator extrapolate, evaluator decode_speed",
            "recurrentgemma/2b",
            "griffin/extrapolation, griffin/decode, griffin/decode_again",
        ),
        (
            "the recurrence as a scan",
            "evaluator scan_speed, evaluator step_speed",
            "tests/arch/test_scan_kernels.py",
            "griffin/scan, griffin/train_speed, griffin/train_speed_again",
        ),
        (
            "copying and recall",
            "source selective_copy, source induction, source phonebook, source mqar",
            "tests/experiments/data/test_tasks.py",
            "griffin/copy_recall, mechanisms/mqar, mechanisms/mqar_window, mechanisms/mad",
        ),
    ),
    EMBEDDING: (
        (
            "an encoder that sees both sides",
            "mixer attention.causal, embeddinggemma/300m",
            "Gemma3TextModel",
            "embeddinggemma/bidirectional",
        ),
        (
            "a vector of a text: pools, maps, prompts",
            "pool mean, pool attention, pool last, pool first, model.project",
            "sentence-transformers",
            "embeddinggemma/pooling",
        ),
        (
            "the start from an encoder-decoder (UL2)",
            "model.encoder, cross attention, mixer merged_attention, objective ul2",
            "T5GemmaForConditionalGeneration, T5Gemma2ForConditionalGeneration",
            "embeddinggemma/initialisation",
        ),
        (
            "contrastive loss, hard negatives, hardness",
            "objective contrastive.hardness",
            "tests/experiments/test_contrastive.py",
            "embeddinggemma/hardness, embeddinggemma/losses, embeddinggemma/batch_size",
        ),
        (
            "spread-out regulariser, distillation of vectors",
            "objective contrastive.weights, objective contrastive.teacher",
            "tests/experiments/test_contrastive.py",
            "embeddinggemma/losses",
        ),
        (
            "Matryoshka: vectors that can be cut",
            "objective contrastive.dims, evaluator retrieval.dims",
            "tests/experiments/test_contrastive.py",
            "embeddinggemma/truncation",
        ),
        (
            "a soup of mixtures",
            "source mix, merge mean",
            "tests/experiments/test_merges.py",
            "embeddinggemma/soup, embeddinggemma/soup_of_found, embeddinggemma/mixtures",
        ),
        (
            "quantised weights and vectors",
            "quantiser int4_channel, quantiser int8_block, evaluator retrieval.quantise",
            "tests/arch/test_quantisers.py",
            "embeddinggemma/precision",
        ),
    ),
}
SYSTEMS = tuple(
    System(paper, what, _words(built), _words(proven), _words(studies))
    for paper, lines in _LINES.items()
    for what, built, proven, studies in lines
)


@dataclass(frozen=True)
class Standing:
    """How a system stands. missing: what of `built` and `proven` is not there. trained: {study: runs that ended} of those that have
    some. judged: how often each word is a verdict of theirs.
    """

    system: System
    missing: tuple[str, ...]
    trained: Mapping[str, int]
    judged: Mapping[str, int]


def standings(every: Iterable[Entry]) -> Iterator[Standing]:
    """The Standing of each system. every: the studies that have begun; of several scales of one, the one with most runs counts."""
    best: dict[str, Entry] = {}
    for entry in every:
        name = entry.name.removeprefix("sweeps/")
        if entry.scale != SMOKE and (name not in best or entry.ended > best[name].ended):
            best[name] = entry
    for system in SYSTEMS:
        missing = [each for each in system.built if not is_built(each)]
        missing += [each for each in system.proven if is_checkout() and not is_proven(each)]
        known = {name: best[name] for name in system.studies if name in best and best[name].ended}
        words = Counter(word for entry in known.values() for word in verdicts(entry))
        yield Standing(system, tuple(missing), {name: entry.ended for name, entry in known.items()}, words)


def verdicts(entry: Entry) -> list[str]:
    """The words of a study's claims, without baselines, as its report has them; none without a report."""
    path = entry.folder / CLAIMS
    if not path.is_file():
        return []
    with path.open(newline="") as lines:
        return [row["verdict"] for row in csv.DictReader(lines) if row.get("verdict") and row["verdict"] != BASELINE]


def is_built(what: str) -> bool:
    """Whether a spec can say it: an option of a component, a key of a model, or the name of a shipped spec."""
    from arch.model_spec import ModelSpec

    key, dot, option = what.partition(".")
    if dot and key == "model":
        return option in ModelSpec.model_fields
    kind, space, name = key.partition(" ")
    if not space:
        return what in document.shipped("arch")
    if kind not in registry.FOLDERS:
        return False
    try:
        config: Any = registry.component(kind, name).Config
    except SpecError:
        return False
    return not option or option in config.model_fields


def is_proven(what: str) -> bool:
    """Whether a row of docs/parity.md with these words agrees, or the file of tests is there."""
    if what.startswith("tests/"):
        return (document.ROOT / what).is_file()
    found = [agrees for said, agrees in _parity() if re.search(rf"(?<!\w){re.escape(what)}(?!\w)", said)]
    return bool(found) and all(found)


@cache
def _parity():
    """[(the first two cells of a row of docs/parity.md: `reference code: hawk`, whether it agrees)]."""
    path = document.ROOT / PARITY
    lines = path.read_text().splitlines() if path.is_file() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    judged = [row for row in cells if row[-1] in AGREES or row[-1].startswith(DIFFERS)]
    return [(f"{row[0]}: {row[1]}".replace("`", ""), row[-1] in AGREES) for row in judged]


def is_checkout() -> bool:
    """Whether the documents, tests and results are there, of which no installed package has any."""
    return (document.ROOT / PARITY).is_file()


LEGEND = (
    "built: the spec, or the options of one, that say it. proven: what its numbers equal (docs/parity.md), or the test.\n"
    "trained: runs of its studies that ended, in results/ and in the folder of runs. judged: the verdicts of their claims."
)


def table(found: Iterable[Standing]) -> Any:
    """A rich Table: a row per system."""
    from rich.table import Table

    legend = LEGEND if is_checkout() else f"{LEGEND}\nWhat is proven and trained is known in a checkout of the project alone."
    made, paper = Table(title="Systems of the papers", title_justify="left", caption=legend, caption_justify="left"), ""
    for column in ("system", "built", "proven", "trained", "judged"):
        made.add_column(column, overflow="fold")
    for each in found:
        if each.system.paper != paper:
            paper = each.system.paper
            made.add_section()
            made.add_row(paper.upper())
        made.add_row(each.system.what, *_cells(each))
    return made


def _cells(each):
    there = lambda parts: ", ".join(f"{part} (missing)" if part in each.missing else part for part in parts)  # noqa: E731
    left = [name for name in each.system.studies if name not in each.trained]
    trained = [times(sum(each.trained.values()), "run")] * bool(each.trained) + [f"not yet: {', '.join(left)}"] * bool(left)
    judged = ", ".join(f"{each.judged[word]} {word}" for word in in_order(each.judged)) or units.DASH
    proven = there(each.system.proven) if is_checkout() else units.DASH
    return there(each.system.built), proven, "; ".join(trained) or units.DASH, judged
