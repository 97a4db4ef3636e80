"""The tables of results, comparisons and claims as HTML: verdicts as badges, intervals on lines of their own."""

import html
from collections.abc import Collection, Iterable
from typing import Any

from analysis import tables
from analysis.claims import statement
from analysis.forms import two_lines
from analysis.tables import Results, p_cell
from arch import units
from arch.contracts import Verdict


def comparisons(raw: Results, judgement: Any) -> str:
    """The comparisons as an HTML table: verdicts as badges, intervals on their own line."""
    compared: Any = raw.comparisons
    head = "".join(
        f"<th{'' if name in ('comparison', 'verdict') else ' class=number'}>{html.escape(name)}</th>" for name in compared
    )
    rows = []
    for subject, cells in zip(judgement.contrasts, compared.to_dict("records"), strict=True):
        kind, word = judgement.verdicts.get(subject, Verdict("")).word, judgement.word(subject)
        beneath = f"<small>{html.escape(subject)}</small>" if subject != cells["comparison"] else ""
        parts = {
            "comparison": f"<th scope=row>{html.escape(cells['comparison'])}{beneath}</th>",
            "verdict": _verdict(kind, word, cells["verdict"]),
        }
        rows.append("".join(parts.get(name) or f"<td class=number>{two_lines(cell)}</td>" for name, cell in cells.items()))
    return f"<table class=results><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def claims(judged: Iterable[Any]) -> str:
    """The verdicts of claims that are true or false, as an HTML table: what is claimed, what was seen, the verdict."""
    rows = []
    for judgement in judged:
        shown = judgement.shown
        for subject, verdict in judgement.verdicts.items():
            said = statement(judgement, subject, verdict)
            source = getattr(judgement.claim.config, "source", "")
            seen = tables.seen(judgement, subject)
            word, p = judgement.word(subject), p_cell(verdict, shown.name)
            rows.append(
                f"<tr><th scope=row>{html.escape(said)}<small>{html.escape(source or judgement.name)}</small></th>"
                f"<td><span class='badge {word.replace(' ', '-')}'>{html.escape(word)}</span>"
                f"{'<small>exploratory</small>' if judgement.exploratory else ''}</td><td>{two_lines(seen)}</td>"
                f"<td class=number>{verdict.n}</td><td class=number>{two_lines(p)}</td></tr>"
            )
        rows += [
            f"<tr><th scope=row>{html.escape(subject)}<small>{html.escape(judgement.name)}</small></th>"
            f"<td colspan=4>no verdict yet: {html.escape(text)}</td></tr>"
            for subject, text in judgement.missing.items()
        ]
    head = "<tr><th>claim</th><th>verdict</th><th>seen</th><th class=number>n</th><th class=number>p</th></tr>"
    return f"<table class=results><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def results(raw: Results, arms: Collection[str] | None = None) -> str:
    """The readable table as HTML: verdicts as badges, differences under the arm's name, intervals on their own line.

    arms: the rows to show; None for all.
    """
    shown = tables.readable(raw).drop(columns="differs in")
    numeric = lambda name: name not in ("arm", "verdict")  # noqa: E731
    head = "".join(f"<th{' class=number' if numeric(name) else ''}>{html.escape(name)}</th>" for name in shown)
    both = zip(tables.records(raw.frame), shown.to_dict("records"), strict=True)
    rows = [_html_row(row, not i, cells) for i, (row, cells) in enumerate(both) if arms is None or row["arm"] in arms]
    return f"<table class=results><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_row(row, first, cells):
    same = "the first arm" if first and row["pairs"] is not None else "baseline" if first else "the same spec as the first arm"
    differs = html.escape(tables.shortened(row["changes"])) or same
    word = row["verdict"]
    parts = {
        "arm": f"<th scope=row>{html.escape(row['arm'])}<small>{differs}</small></th>",
        "verdict": _verdict(word, word, cells.get("verdict", "")),
    }
    number = lambda cell: f"<td class=number>{two_lines(cell)}</td>"  # noqa: E731
    return f"<tr>{''.join(parts.get(name) or number(cell) for name, cell in cells.items())}</tr>"


def _verdict(kind, word, cell):
    """A cell of a verdict: its word as a badge, and what the cell of the plain table has behind it in brackets."""
    badge = f"<span class='badge {kind.replace(' ', '-')}'>{html.escape(word)}</span>" if word else ""
    aside = cell.removeprefix(word or units.DASH).strip()
    if aside.startswith("(") and aside.endswith(")"):
        aside = aside[1:-1]
    return f"<td>{badge}<small>{html.escape(aside)}</small></td>"
