"""What all studies below a folder found, as one page of Markdown: a row per question of a claim, beside what a paper published;
then, for each study, its picture and its answer in words. Every number is read from records: nothing is trained or measured.
"""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis import bill, claims, deciding, forms, tables
from analysis.runs import StudyData, load
from arch import document, units
from arch.errors import DataError
from arch.words import listed, times, visible
from experiments.metrics import is_cost
from sweeps import catalog, outline
from sweeps.claims.equivalent import BASELINE
from sweeps.record import StudyRecord
from sweeps.spec import PublishedSpec, StudySpec, split

# The picture of a study's page, in the order of preference.
PICTURES = ("figures/claims.png", "figures/differences.png", "figures/search_front.png", "figures/quality_cache.png")
OURS, OUR_CONTROL = "ours", "our control"
MISSING = "`archbench study show STUDY --scale SCALE` says how long one takes on the machine at hand.\n"
REPORT = "report.html"


@dataclass(frozen=True)
class Study:
    """A study that has records: its largest scale below the folder, and the names of the others there."""

    data: StudyData
    place: str
    others: tuple[str, ...]

    @cached_property
    def judged(self) -> list[claims.Judgement]:
        """The judgements of all its claims."""
        return claims.judgements(self.data)

    @property
    def record(self) -> StudyRecord:
        return self.data.record

    @property
    def command(self) -> str:
        """The command that runs it."""
        record = self.record
        made = f"archbench study run {record.name}{f' --scale {record.scale}' if record.scale else ''}"
        return record.bare_command.replace("python -m sweeps run", "archbench study run") or made


def studies(folder: Path | str) -> list[Study]:
    """The studies below FOLDER/STUDY/SCALE by name. Of several scales of one study the one that trained most stands for it."""
    by_name: dict[str, list[tuple[float, str, StudyData]]] = {}
    for entry in catalog.entries(folder):
        if entry.state == "damaged":
            raise DataError(f"{entry.folder}: {entry.why}", key=None)
        if entry.scale == catalog.SMOKE:
            continue
        data = load(entry.folder)
        spent = float(bill.bill(data).iloc[-1].training_flops or 0)
        by_name.setdefault(entry.name, []).append((spent, entry.place, data))
    chosen = []
    for _, scales in sorted(by_name.items()):
        *fewer, (_, place, data) = sorted(scales, key=lambda each: each[:2])
        chosen.append(Study(data, place, tuple(each[1] for each in fewer)))
    return chosen


def shipped() -> dict[str, StudySpec]:
    """{name: StudySpec} of the shipped studies."""
    return {name: split(document.load(name, "sweeps"))[0] for name in document.shipped("sweeps")}


def rows(study: Study, published: dict[str, PublishedSpec]) -> list[dict[str, str]]:
    """A row per question of each claim, as text. Baselines have no question; controls have a row: they show what can be seen."""
    said = []
    for judgement in study.judged:
        told = published.get(judgement.name, PublishedSpec())
        subjects = {**judgement.verdicts, **dict.fromkeys(judgement.missing)}
        for subject, verdict in subjects.items():
            if verdict is not None and verdict.word == BASELINE:
                continue
            control = subject in getattr(judgement.claim.config, "known_worse", ())
            source = told.source or getattr(judgement.claim.config, "source", "") or OURS
            word = judgement.word(subject) or "not yet"
            said.append(
                {
                    "paper": OUR_CONTROL if control else source,
                    "statement": _statement(judgement, subject, verdict),
                    "published": units.DASH if control else told.value or units.DASH,
                    "ours": tables.seen(judgement, subject) or units.DASH if verdict else judgement.missing[subject],
                    "n": "exact" if is_cost(judgement.shown.name) else str(verdict.n) if verdict and verdict.n else units.DASH,
                    "verdict": f"{word} (exploratory)" if judgement.exploratory and verdict else word,
                    "command": f"`{study.command}`",
                }
            )
    return said


def _statement(judgement, subject, verdict):
    """What is asked, in words, with the arm and what it is compared with."""
    if not judgement.per_arm:
        return claims.statement(judgement, subject, verdict) if verdict else f"{subject}, in {claims.quantity(judgement.shown)}"
    contrast = judgement.contrasts.get(subject)
    against = verdict.against if verdict else judgement.baseline
    who = claims.what(subject, contrast) if contrast else f"{subject} against {against}"
    control = subject in getattr(judgement.claim.config, "known_worse", ())
    margin = "" if judgement.margin is None else f", margin {judgement.shown.margin(judgement.margin)}"
    return f"{claims.quantity(judgement.shown)} of {who}{margin}{' (control: known to be worse)' if control else ''}"


def page(folder: Path | str, place: Path | str = ".") -> str:
    """The page of all studies below a folder, as Markdown with links relative to `place`, the folder that it is written to."""
    known, every = shipped(), studies(folder)
    table = {study.place: rows(study, _published(study, known)) for study in every}
    counts = Counter(row["verdict"].removesuffix(" (exploratory)") for each in table.values() for row in each)
    head = [
        "# Findings",
        "",
        f"`archbench findings {Path(folder).as_posix()} --write FILE` writes this page from records. Do not edit it.",
        "",
        "A row is a question that a study's spec stated before its runs. *Published* is what the paper gives, in its own units.",
        "*Ours* is the difference that this study saw, or how far it is from a stated number, with the interval of its verdict;",
        "*n* is the number of seeds. Differences of a loss are in percent of perplexity. A verdict is about this setting, a small",
        "model and short runs; the command repeats it.",
        deciding.EXPLAINED,
        "[statistics.md](statistics.md) says what the words mean." if (Path(place) / "statistics.md").is_file() else "",
        "",
        f"{times(len(every), 'study') if len(every) == 1 else f'{len(every)} studies'}, "
        f"{times(sum(counts.values()), 'question')}{': ' if counts else ''}"
        f"{listed([f'{count} {word}' for word, count in counts.most_common()])}.",
        "",
    ]
    whole = pd.DataFrame([row for each in table.values() for row in each])
    parts = [*head, forms.markdown(whole) if len(whole) else "No study has records here.\n"]
    parts += [_study(study, table[study.place], Path(folder), Path(place)) for study in every]
    names = {study.record.name for study in every}
    parts.append(_missing({name: spec for name, spec in known.items() if name not in names}))
    return visible("\n".join(parts)).rstrip("\n") + "\n"


def _published(study, known):
    """{claim: PublishedSpec} by a shipped study's present spec, whose words may be newer than the record; else by the record's."""
    record = study.record
    if record.name not in known:
        return {name: PublishedSpec.parse(value) for name, value in (record.spec.get("published") or {}).items()}
    told = known[record.name].published
    # The only claim of an older record may have another name.
    return dict(zip(record.claims, told.values(), strict=True)) if len(record.claims) == len(told) == 1 else told


def _study(study, asked, folder, place):
    """A study's short page: its picture, what notes say of it (else its answers), and what it cost on which machine."""
    data, record = study.data, study.record
    here = folder / study.place
    link = lambda name: Path(os.path.relpath(here / name, place)).as_posix()  # noqa: E731
    judged = study.judged
    answers = [f"{each.name}: {each.answer}" if len(judged) > 1 else each.answer for each in judged]
    remarks = [text for each in judged for text in each.sentences if text != each.answer]
    picture = next((name for name in PICTURES if (here / name).is_file()), None)
    lines = [f"\n## {record.name}\n", f"{record.question}\n"]
    lines += [f"![{record.question}]({link(picture)})\n"] if picture else []
    read = [note.text for note in catalog.Marks.read_whole(here).notes]
    lines += [f"{text}\n" for text in read or [*answers, *remarks[:1]]]
    lines += [f"{text}\n" for text in dict.fromkeys(claims.tuning_warnings(data))]
    if undecided := deciding.listing(data, judged):
        lines.append(f"{undecided}\n")
    about = [f"Scale `{record.scale}`", *filter(None, [_size(data), bill.sentence(bill.bill(data)), _machine(data)])]
    reports = [f"[report]({link(REPORT)})"] if (here / REPORT).is_file() else []
    others = [f"also run: {listed([f'`{Path(other).name}`' for other in study.others])}"] if study.others else []
    lines.append(f"{'; '.join([*about, *reports, *others])}.\n")
    return "\n".join(lines)


def _size(data):
    """`1.02 M tokens a run`, or from the fewest to the most."""
    tokens = data.runs.tokens[data.runs.status == "finished"]
    if not len(tokens) or not tokens.max():
        return ""
    few, many = int(tokens.min()), int(tokens.max())
    return f"{units.count(few)} tokens a run" if few == many else f"{units.count(few)} to {units.count(many)} tokens a run"


def _machine(data):
    """The CPUs or GPUs of the finished runs."""
    names = {str(run.hardware.get("gpu") or run.hardware.get("cpu") or "") for run in data.records.values()}
    return listed(sorted(names - {""}))


def _missing(specs):
    """The shipped studies that have no records here, with what the scale for a laptop would run."""
    if not specs:
        return ""
    lines = ["\n## Shipped studies without a result here\n", MISSING]
    for name, spec in specs.items():
        scale = spec.laptop_scale if spec.laptop_scale in spec.scales else None
        runs = outline.outline(document.load(name, "sweeps"), scale)
        lines.append(f"* `{name}`: {spec.question} {f'`{scale}`' if scale else 'As written'}: {runs}.")
    return "\n".join(lines)


def check(folder: Path | str, file: Path) -> None:
    """Raises DataError where a written page differs from what the records say."""
    if not file.is_file() or file.read_text() != page(folder, file.parent):
        raise DataError(
            f"{file}: is not what the records in {folder} say; `archbench findings {folder} --write {file}` writes it", key=None
        )
