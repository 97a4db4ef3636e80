"""What `archbench evaluate` measures: a finished run with its own data, or any checkpoint with data that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch import checkpoint, document, registry
from arch.document import Node, node
from arch.errors import SpecError, nearest
from arch.plugins import is_plugin
from arch.spec import digest
from arch.tokenizer import read, special_tokens
from experiments import evaluations, leftovers
from experiments.data.dataset import gives_rows, prepare
from experiments.data.specials import BOS, EOS
from experiments.plan import RunPlan, at_its_line, check_evaluations, identity_plugins, resolved
from experiments.record import RunRecord
from experiments.start import content

# Tokens per row and rows per batch for a checkpoint, which was trained with nobody knows what. Most evaluators have
# contexts of their own.
CONTEXT, ROWS = 256, 8


def named(evaluators: list[str], changes: list[str], split: str) -> Node:
    """The section `evaluate` with the evaluators of these types on one split, each under its type as its name.

    changes: `NAME.OPTION=VALUE`. Raises SpecError for a name that no evaluator has.
    """
    known = registry.names("evaluator")
    for name in evaluators:
        if not is_plugin(name) and name not in known:
            raise SpecError(f"no evaluator {name!r}{nearest(name, known)} (`archbench list` shows them)")
    key = {name: name.partition(":")[2] or name.rpartition(".")[2] for name in evaluators}
    section = node({key[name]: {"type": name} for name in evaluators})
    section = document.overridden(section, document.assignments(changes))
    if extra := [name for name in section.value if name not in key.values()]:
        raise SpecError(
            f"--set {extra[0]}...: no evaluator of that name is asked for; expected {', '.join(key.values())}.OPTION=VALUE"
        )
    other = "select" if split == "report" else "report"
    return Node({"every": node(1), split: section, other: node({})})


def of_run(folder: Path, record: RunRecord, section: Node | None) -> RunPlan:
    """The RunPlan of measuring the finished run in `folder`. section: what to measure, by default as its spec says.

    Only the splits that it names are measured. Raises SpecError, DataError.
    """
    leftovers.check_finished(folder)
    root = node(record.spec)
    if section is not None:
        root = Node({**root.value, "evaluate": section}, section.file, section.line)
    complete = resolved(root)
    wanted = evaluations.planned(complete.spec)
    splits = section.value.keys() & {*evaluations.SPLITS} if section is not None else ()
    wanted = [each for each in wanted if not splits or each.split in splits]
    if section is not None:
        dataset = prepare(complete.spec.data, complete.spec.model.vocab_size)
        check_evaluations(wanted, complete.spec.model, dataset, complete.document)
    about: dict[str, Any] = {"identity": record.identity, "data": record.data, "plugins": record.plugins}
    return RunPlan(spec=complete.spec, evaluations=tuple(wanted), **about)


def of_checkpoint(folder: Path, section: Node, data: Node | None, texts: list[str]) -> RunPlan:
    """The RunPlan of measuring a checkpoint that is no run of ours.

    data: the section `data` of an experiment; by default real text, with the checkpoint's own tokenizer. texts: files that
    take the place of its source; all of them are measured. The folder says neither which data nor which weights were
    measured, so both are in the names of the evaluations' files. Raises SpecError, DataError.
    """
    model, _ = checkpoint.open_checkpoint(folder)
    written = {} if data is None else dict(data.value)
    source = written.get("source", node({"type": "python_stdlib"}))
    written = {"context": node(CONTEXT), "rows": node(ROWS), **written, "source": source}
    if texts:
        written |= {"source": node({"type": "text", "files": texts}), "splits": node("all")}
    if "tokenizer" not in written and (folder / checkpoint.TOKENIZER).is_file() and _takes_tokenizer(source):
        written["tokenizer"] = node({"type": "file", "path": str(folder / checkpoint.TOKENIZER), **_named(folder)})
    place = (data.file, data.line) if data is not None else (None, None)
    parts = {"model": node(model.dump()), "data": Node(written, *place), "train": node({"steps": 0}), "evaluate": section}
    complete = resolved(Node({**parts, "optimizer": node({"lr": 1e-3})}, *place))
    with at_its_line(complete.document):
        dataset = prepare(complete.spec.data, complete.spec.model.vocab_size)
    identity = digest({"weights": content(folder), "model": digest(model)})
    # Evaluators without a context of their own have that of the data, which its fingerprint does not cover.
    read = {"fingerprint": dataset.fingerprint, "context": complete.spec.data.context, "rows": complete.spec.data.rows}
    measured = digest({"checkpoint": identity, "data": read})
    wanted = [each.model_copy(update={"data": measured}) for each in evaluations.planned(complete.spec)]
    check_evaluations(wanted, complete.spec.model, dataset, complete.document)
    plugins = identity_plugins(complete.spec)
    return RunPlan(spec=complete.spec, identity=identity, data=dataset.summary(), plugins=plugins, evaluations=tuple(wanted))


def _takes_tokenizer(source: Node) -> bool:
    """Whether a source gives texts; of one that is unknown, whoever resolves it says so."""
    kind = source.value.get("type") if isinstance(source.value, dict) else None
    if kind is None or not isinstance(kind.value, str):
        return True
    try:
        found = registry.component("source", kind.value)
    except SpecError:
        return True
    return not gives_rows(found) or getattr(found, "tokenizes", False)


def _named(folder):
    """{bos, eos: what the tokenizer of a checkpoint folder calls them, or None}, where it does not call them as we do."""
    tokenizer = read(folder / checkpoint.TOKENIZER)
    if all(tokenizer.token_to_id(name) is not None for name in (BOS, EOS)):
        return {}
    ids = special_tokens(folder)
    first = {kind: ids.get(f"{kind}_token_id") for kind in ("bos", "eos")}
    first = {kind: number[0] if isinstance(number, list) else number for kind, number in first.items()}
    return {kind: None if number is None else tokenizer.id_to_token(number) for kind, number in first.items()}
