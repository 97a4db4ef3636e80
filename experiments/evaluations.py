"""The measurements of a run, each in a file of its own: RUN/evaluations/SPLIT.NAME-DIGEST.json. No torch here.

The digest covers what decides the numbers beside the run itself: the evaluator's options, a plug-in's source and the rule
by which the split's rows are chosen. So a finished run gains another measurement without a training step, and keeps those
it has.
"""

from pathlib import Path
from typing import Any, Literal

from arch.document import Node, node
from arch.plugins import plugin_sources
from arch.spec import Spec, digest
from experiments.record import EvaluationRecord, evaluation_file, evaluation_of
from experiments.spec import EvaluateSpec, ExperimentSpec

SPLITS: tuple[Literal["select", "report"], ...] = ("select", "report")
ROWS = {"select": 64, "report": 256}
SAMPLE = 100
# {evaluator that is a default of the report split: what its data must offer}
OF_DATA = {"recall": "recalls", "floor": "exact", "answers": "answers"}
# Increase a split's number when other rows than before are read of it, or shipped evaluators measure otherwise: every file
# of its evaluations then has another name, and runs that were finished before are measured again instead of being compared
# with what is measured now. report, 2: its rows are spread over the documents. select, 2, and report, 3: `next_token` has an
# accuracy.
RULE = {"select": 2, "report": 3}


class Evaluation(Spec):
    """One evaluator, complete, on one split. name: its key in the spec. plugins: digests of its source, if it is a plug-in.

    data: a digest of the data and the weights, where no run's identity covers them: of a checkpoint that is no run.
    """

    split: Literal["select", "report"]
    name: str
    evaluator: dict[str, Any]
    plugins: dict[str, str] = {}
    data: str = ""

    @property
    def key(self) -> str:
        """SPLIT.NAME, unique within a run's spec."""
        return f"{self.split}.{self.name}"

    @property
    def file(self) -> str:
        """The file's name."""
        rule = {"rule": RULE[self.split]} if RULE[self.split] > 1 else {}
        data = {"data": self.data} if self.data else {}
        return f"{self.key}-{digest({'evaluator': self.evaluator, 'plugins': self.plugins} | rule | data)[:12]}.json"

    def record(self, folder: Path | str) -> EvaluationRecord | None:
        """What the run in `folder` has of it, or None. Raises SpecError or ValueError for a broken file."""
        return evaluation_of(folder, self.file)


def planned(spec: ExperimentSpec) -> list[Evaluation]:
    """The evaluations of a resolved spec, those of the select split first."""
    return [
        Evaluation(split=split, name=name, evaluator=evaluator, plugins=plugin_sources(evaluator))
        for split in SPLITS
        for name, evaluator in (getattr(spec.evaluate, split) or {}).items()
    ]


def files(spec: ExperimentSpec) -> dict[str, str]:
    """{SPLIT.NAME: file} of the evaluations of a resolved spec."""
    return {evaluation.key: evaluation.file for evaluation in planned(spec)}


def missing(evaluations: list[Evaluation], folder: Path | str) -> list[Evaluation]:
    """Those that the run in `folder` does not have. Their files are written whole, so one that is there is not read."""
    return [evaluation for evaluation in evaluations if not evaluation_file(folder, evaluation.file).is_file()]


def section(root: Node, written: EvaluateSpec, able: set[str]) -> Node:
    """The `evaluate` section of the experiment document `root`, in today's spelling and with the default evaluators.

    A key of the older spelling overrides the evaluator that it stands for, as where a spec extends one of today's.

    written: the section as parsed. able: the capabilities of the model; an evaluator is a default only where it can work.
    """
    here = root.at(("evaluate",))
    children = dict(here.value) if isinstance(root.value, dict) and "evaluate" in root.value else {}
    older = {key: children.pop(key, None) for key in ("select_rows", "report_rows", "sample_tokens")}
    for split in SPLITS:
        given = getattr(written, split) is not None
        evaluators = dict(children[split].value) if given else {}
        rows = None if given else node(ROWS[split])
        if getattr(written, f"{split}_rows") is not None:
            rows = older[f"{split}_rows"]
        if rows is not None:
            evaluators["loss"] = Node({"type": node("objective"), "rows": rows}, here.file, here.line)
        if split == "report" and (written.sample_tokens is not None or not given):
            tokens = SAMPLE if written.sample_tokens is None else written.sample_tokens
            evaluators.pop("sample", None)
            if tokens and {"decodes", "text"} <= able:
                evaluators["sample"] = node({"type": "sample", "tokens": tokens})
        if split == "report" and not given:
            evaluators |= {name: node({"type": name}) for name, word in OF_DATA.items() if {"causal", word} <= able}
        evaluators = {name: each for name, each in evaluators.items() if each.value is not None}  # null drops one
        children[split] = Node(evaluators, here.file, here.line)
    return Node(children, here.file, here.line)
