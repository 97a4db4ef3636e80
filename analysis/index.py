"""`RUNS/index.html`: every study below a folder of runs on one self-contained page, with links to the reports.

A few lines of JavaScript filter the rows by the words that one types and sort them by a column. Without JavaScript all rows
stand there, and the box for the words does not.
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from analysis import style
from arch import units
from arch.words import visible
from experiments.files import write_atomically
from sweeps.catalog import REPORT, Entry, chosen, entries

NAME = "index.html"
# Of `analysis.run_report`, whose import would take longer than everything else here.
PAGE = "evaluations.html"
COLUMNS = ("study", "state", "verdict", "last run", "disk")

CSS = """
.index th button { all: unset; cursor: pointer; } .index th button:focus-visible { outline: 2px solid var(--accent); }
.index .state { white-space: nowrap; } .index .failed, .index .damaged { color: var(--failed); }
.index tr.archived { opacity: .6; } .index a { color: var(--accent); }
.search { font: inherit; width: 100%; padding: 9px 12px; margin: 0 0 16px; color: inherit; background: var(--card);
  border: 1px solid var(--grid); border-radius: 6px; }
"""

# Rows carry their text in lower case (`data-text`) and cells what they sort by (`data-key`).
SCRIPT = """
const table = document.querySelector('.index'), body = table.tBodies[0], box = document.createElement('input');
box.type = 'search'; box.className = 'search'; box.placeholder = 'Filter: name, question, state, verdict, note';
box.setAttribute('aria-label', 'Filter the studies');
table.before(box);
box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\\s+/);
  for (const row of body.rows) row.hidden = !words.every(word => row.dataset.text.includes(word));
});
[...table.tHead.rows[0].cells].forEach((cell, column) => {
  const button = document.createElement('button');
  button.textContent = cell.textContent; cell.replaceChildren(button);
  button.addEventListener('click', () => {
    const down = cell.getAttribute('aria-sort') === 'ascending', key = row => row.cells[column].dataset.key;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
    cell.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const sorted = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), undefined, {numeric: true}));
    body.append(...(down ? sorted.reverse() : sorted));
  });
});
"""


def write(runs: Path | str, every: Sequence[Entry] | None = None) -> Path:
    """Write the page into the folder of runs, unless it is there already; returns its path. Raises OSError.

    every: the entries of all studies, if they are known.
    """
    path = Path(runs) / NAME
    content = page(runs, entries(runs) if every is None else every).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)
    return path


def page(runs: Path | str, every: Sequence[Entry]) -> str:
    """The whole page as HTML text; the studies that are archived come last."""
    shown = sorted(chosen(every), key=lambda each: each.marks.archived)
    disk = units.size(sum(each.disk for each in every))
    count = "1 study" if len(every) == 1 else f"{len(every)} studies"
    head = "".join(f"<th{' class=number' if name == 'disk' else ''}>{name}</th>" for name in COLUMNS)
    rows = "".join(_row(each) for each in shown)
    table = f"<table class=index><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    parts = [
        f"<style>{CSS}</style>",
        f"<header><p class=where>{count} · {disk}</p><h1>Studies</h1></header>",
        f"<section><div class=scroll>{table}</div></section>",
        _single(Path(runs)),
        f"<script>{SCRIPT}</script>",
    ]
    return style.page("Studies", parts)


def _row(each: Entry) -> str:
    state, note = each.state, each.note
    words = " ".join([each.place, each.question, each.progress, each.verdict, *(note.text for note in each.marks.notes)])
    name = html.escape(visible(each.place))
    link = f"<a href='{quote(f'{each.place}/{REPORT}')}'>{name}</a>" if each.report else name
    below = "".join(
        f"<small>{html.escape(visible(text))}</small>" for text in (each.question or each.why, note and f"note: {note}") if text
    )
    archived = "<small>archived</small>" if each.marks.archived else ""
    return (
        f"<tr{' class=archived' if each.marks.archived else ''} data-text='{html.escape(visible(words).lower())}'>"
        f"<th scope=row data-key='{html.escape(each.place.lower())}'>{link}{below}{archived}</th>"
        f"<td class='state {state}' data-key='{html.escape(each.progress)}'>{html.escape(each.progress)}</td>"
        f"<td data-key='{html.escape(each.verdict)}'>{html.escape(visible(each.verdict)) or units.DASH}</td>"
        f"<td class=state data-key='{html.escape(each.last)}'>{each.when or units.DASH}</td>"
        f"<td class=number data-key='{each.disk}'>{units.size(each.disk)}</td></tr>"
    )


def _single(runs: Path) -> str:
    """Links to the pages of single runs, and of single runs of studies; empty without one."""
    pages = sorted([*runs.glob(f"single/*/run-*/seed-*/{PAGE}"), *runs.glob(f"*/*/*/seed-*/{PAGE}")])
    places = dict.fromkeys(Path(os.path.relpath(path, runs)).as_posix() for path in pages)
    items = "".join(f"<li><a href='{quote(place)}'>{html.escape(visible(place.rpartition('/')[0]))}</a></li>" for place in places)
    return f"<section><h2>What was measured of single runs</h2><ul>{items}</ul></section>" if items else ""
