"""`archbench check`: the battery of `arch.probe` on one component, and what came of it as a table in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from arch import blame, cost, document, probe, registry
from arch.document import Node
from arch.errors import SpecError
from arch.parameters import Context
from arch.plugins import is_plugin
from arch.show import written
from arch.spec import Spec
from arch.words import listed, times

KINDS = ("mixer", "ffn", "pool", "cross", "quantiser")
BUILT = probe.Point("says how its parameters start", lambda it: None)
BUILT_QUANTISER = probe.Point("has what a quantiser has", lambda it: None)
COSTED = probe.Point("can be costed without storage, on the meta device", lambda it: None)


@dataclass(frozen=True)
class Report:
    """What came of the battery. findings: {the options of a checked instance: its findings}."""

    kind: str
    name: str
    dim: int
    findings: dict[str, list[probe.Finding]]

    @property
    def passed(self) -> bool:
        return not any(finding.wrong for each in self.findings.values() for finding in each)

    def __rich__(self) -> RenderableType:
        table = Table(
            "check",
            "result",
            title=f"{self.kind} {self.name}" + (f", width {self.dim}" if self.kind != "quantiser" else ""),
            title_justify="left",
        )
        for point in dict.fromkeys(finding.point for each in self.findings.values() for finding in each):
            table.add_row(point.words, self._result(point))
        options = "; ".join(each or "defaults" for each in self.findings)
        failed = {finding.point.words for each in self.findings.values() for finding in each if finding.wrong}
        end = f"{times(len(failed), 'check')} failed" if failed else "it does what it says"
        return Group(table, f"checked with {times(len(self.findings), 'set')} of options: {options}", end)

    def _result(self, point):
        of = [(options, each) for options, found in self.findings.items() for each in found if each.point is point]
        wrong = [(options, each.failure) for options, each in of if each.failure]
        unasked = [each.unasked for _, each in of if each.unasked]
        if not wrong and unasked:
            some = f"pass; with {times(len(unasked), 'set')} of options " if len(unasked) < len(of) else ""
            return f"{some}not checked: {unasked[0]}"
        if not wrong:
            return "pass"
        options, failure = wrong[0]
        sign = ("remark", "") if point.remark else ("FAIL", "bold red")
        shown = f" ({options})" if options and len(self.findings) > 1 else ""
        more = f", and with {times(len(wrong) - 1, 'other set')} of options" if len(wrong) > 1 else ""
        return Text.assemble(sign, f": {failure}{shown}{more}")


def check(name: str, changes: Sequence[str] = (), dim: int = 64, tokens: int = 256) -> Report:
    """The Report of a component of KINDS, by its shipped name or import path.

    A name may begin with the kind, `pool/attention`, where several kinds have it. changes: `KEY=VALUE` texts, its options.
    Without any, each of `Config.examples()` is checked, or the defaults. Raises SpecError for a component that is not
    found, for options that it does not have or needs, and if it cannot be built in this width.
    """
    kind, name = _found(name)
    found: dict[str, list[probe.Finding]] = {}
    for resolved in _instances(kind, name, changes):
        options = ", ".join(_written(registry.component(kind, name).Config, resolved))
        found[options] = _findings(kind, resolved, options, dim, tokens)
    return Report(kind, name, dim, found)


def _written(config, resolved):
    """Yields KEY=VALUE of each option that is not at its default."""
    for key, value in resolved.items():
        default = None if key == "type" else config.model_fields[key].get_default()
        if key != "type" and value != (default.dump() if isinstance(default, Spec) else default):
            yield f"{key}={written(value)}"


def _findings(kind, resolved, options, dim, tokens):
    try:
        it = probe.subject(kind, resolved, Context(dim, 0, 2), tokens)
    except probe.Broken as broken:
        return [probe.Finding(BUILT_QUANTISER if kind == "quantiser" else BUILT, str(broken))]
    except (Exception, SystemExit) as error:
        shown = f" with {options}" if options else ""
        reason = str(error) if isinstance(error, ValueError) else f"{blame.words(error)}, {blame.place(error)}"
        raise SpecError(f"{resolved['type']}{shown} cannot be built in width {dim}: {reason}") from None
    if kind not in probe.COSTED_KINDS:
        return list(probe.findings(it))
    return [*probe.findings(it), probe.Finding(COSTED, cost.failure(kind, resolved, Context(dim, 0, 2), tokens))]


def _found(asked):
    """(kind, name) of a component: the first of KINDS that has it, or the kind that it names. Raises SpecError."""
    given, _, rest = asked.partition("/")
    kinds, name = ((given,), rest) if given in KINDS and rest else (KINDS, asked)
    refused = []
    for kind in kinds:
        try:
            registry.component(kind, name)
            return kind, name
        except SpecError as error:
            refused.append(error)
    if not is_plugin(name):
        if len(kinds) == 1:
            raise SpecError(refused[0].reason)
        shown = (each if kind in ("mixer", "ffn") else f"{kind}/{each}" for kind in KINDS for each in registry.names(kind))
        expected = f"known: {', '.join(shown)} (or the import path of your own, module:Class)"
        raise SpecError(f"no {listed(KINDS, 'or')} {name!r}; {expected}")
    several = next((each for each in refused if " 0 classes" not in each.reason), None)
    if several is not None:
        raise SpecError(several.reason)
    module, colon, called = name.partition(":")
    marks = listed([f"@{kind}" for kind in KINDS], "or")
    raise SpecError(f"{module} has no class marked {marks}{f' named {called}' if colon else ''}")


def _instances(kind: str, name: str, changes: Sequence[str]) -> list[dict[str, Any]]:
    """The resolved components to check."""
    config: Any = registry.component(kind, name).Config
    if not changes and hasattr(config, "examples"):
        return [{"type": name, **each.dump()} for each in config.examples()]
    root = document.override(Node({}), "type", document.node(name))
    try:
        return [registry.resolve_component(kind, document.overridden(root, document.assignments(changes)), ())]
    except SpecError as error:
        if changes:
            raise
        raise SpecError(f"{name}: {error}; say --set KEY=VALUE for each option that it needs") from None
