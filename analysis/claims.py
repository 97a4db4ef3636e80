"""What a study may say: the verdicts of its claims, and an answer to its question in words.

The claims themselves judge (`sweeps/claims/`, `sweeps/judge.py`); here their verdicts become sentences.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.deciding import seeds_needed
from analysis.shown import Shown
from arch.contracts import UNDECIDED, UNSTABLE, Verdict
from arch.units import share
from arch.words import listed, listed_names, times, together
from experiments.metrics import is_cost
from sweeps import comparable
from sweeps import judge as court
from sweeps.claims.equivalent import BASELINE, BETTER, SAME, WORSE, Equivalent
from sweeps.comparable import NOT_COMPARABLE
from sweeps.compare import on_scale
from sweeps.contrasts import Contrast, what, where
from sweeps.looks import ALPHA, levels
from sweeps.paired import CONTRADICTED, SUPPORTED
from sweeps.stats import Sample, weighted

# With more arms than this, a title counts the arms instead of naming them.
NAMED = 5
# A seed with a larger part of an arm's variance is named.
HEAVY = 0.5
# With three seeds, one of them always carries half of the variance or more.
HEAVY_FROM = 4
# How a claim of a paper is called when it is supported.
REPRODUCED = "reproduced"
# What the words mean of an interaction: a level of one factor changes the effect of another.
TOGETHER = {WORSE: "worse together", BETTER: "better together", SAME: "no interaction"}


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one claim, the baseline's first, and the answer in words.

    name: the claim's name in the study. claim: the component. shown: its metric. scaled: {arm: {seed: value}} on the
    scale of `sweeps.compare`. baseline: the arm that the others are compared with. differences: {arm: Sample} of each
    arm's difference from it, on that scale, over the seeds that its verdict was read at. verdicts: {subject: Verdict}; a
    subject is an arm, or several together. missing: {subject: what is missing before its first or next look}. level: the
    probability of a wrong word that each question may spend at the look. exploratory: whether looks were taken that the plan
    does not pay for. contrasts: {subject: Contrast} of a study that does not compare every arm with the first (`compare`);
    then `differences` has these subjects and the controls. own: {subject: Sample} of the differences that the verdicts are
    about; a claim that is true or false may name another arm than the baseline, and has none here that names no second arm.
    """

    name: str
    claim: Any
    shown: Shown
    scaled: dict[str, dict[int, float]]
    baseline: str
    differences: dict[str, Sample]
    verdicts: dict[str, Verdict]
    missing: dict[str, str]
    level: float
    exploratory: bool = False
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    own: dict[str, Sample] = field(default_factory=dict)
    answer: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def sentences(self):
        """The answer, then the remarks that qualify it."""
        return [self.answer, *self.remarks]

    @property
    def paired(self):
        """Whether all that is compared is compared within seeds."""
        return all(sample.paired for sample in self.differences.values())

    @property
    def undecided(self):
        """The subjects that are undecided."""
        return [subject for subject, verdict in self.verdicts.items() if verdict.word == UNDECIDED]

    @property
    def margin(self):
        """The effect that is too small to matter, as the claim states it (0.01 is 1 %); None if it states none."""
        return getattr(self.claim.config, "margin", None) if self.per_arm else None

    @property
    def per_arm(self):
        """Whether the claim asks about every arm, so that its verdicts belong into a table of arms."""
        return not hasattr(self.claim, "statement")

    def about(self, arm):
        """The Verdict on an arm's difference from the baseline, or None.

        A claim that is true or false may be about another difference: from another arm, or from a stated value.
        """
        return self.verdicts.get(arm) if self.per_arm else None

    def beside(self, arm):
        """The Verdict that may stand beside a difference of `differences`, or None: none that is about another arm."""
        verdict = self.verdicts.get(arm)
        own = self.per_arm or arm in self.contrasts
        return verdict if own or (verdict and verdict.against in ("", self.baseline)) else None

    def word(self, subject):
        """A subject's verdict as it is printed: a paper's claim is `reproduced`; empty before the first look."""
        word = self.verdicts[subject].word if subject in self.verdicts else ""
        if subject in self.contrasts and self.contrasts[subject].at:
            word = TOGETHER.get(word, word)
        source: str = getattr(self.claim.config, "source", "")
        return REPRODUCED if word == SUPPORTED and source else word


def judgements(study):
    """The Judgement of every claim of a StudyData, in the study's order."""
    rulings = court.judge(study.record, study.measured)
    return [_judgement(study, name, rulings[name]) for name in study.record.claims]


def tabled(judged):
    """The Judgements that have a table of arms: the first, and further ones that ask about every arm."""
    return [judgement for i, judgement in enumerate(judged) if judgement.per_arm or not i]


def judge(study, name=None):
    """The Judgement of one claim of a StudyData; by default of the first, which the main table shows."""
    name = next(iter(study.record.claims)) if name is None else name
    return next(each for each in judgements(study) if each.name == name)


def _judgement(study, name, ruling):
    claim = ruling.claim
    shown = Shown(claim.config.metric, study.metric(claim.config.metric))
    # A cost is one exact number of an arm, for all its seeds.
    costs = {arm: study.cost(arm, shown.name) for arm in study.record.arms} if is_cost(shown.name) else {}
    values = {arm: {} if cost is None else {0: cost} for arm, cost in costs.items()} if costs else study.values(shown.name)
    counted = shown.metric.varies == "never" and all(len({*each.values()}) < 2 for each in values.values())
    exact = is_cost(shown.name) or counted
    scaled = {arm: {seed: on_scale(value, shown.metric) for seed, value in each.items()} for arm, each in values.items()}
    baseline = getattr(claim.config, "to", None) or study.baseline
    contrasts = getattr(claim.config, "contrasts", {})
    firsts = study.record.first_seeds
    differences = {
        arm: weighted(scaled, {arm: 1.0, baseline: -1.0}, exact, firsts) if arm != baseline else _zero(scaled[arm], exact)
        for arm in scaled
    }
    if contrasts:
        gates = claim.controls(tuple(scaled)) if isinstance(claim, Equivalent) else {}
        every = contrasts | {arm: gate for arm, gate in gates.items() if arm in ruling.verdicts}
        every = {subject: each for subject, each in every.items() if subject in {*ruling.verdicts, *ruling.missing}}
        differences = {subject: weighted(scaled, each.weights, exact, firsts) for subject, each in every.items()}
    plan = court.plan_of(study.record)
    spent = dict(zip(plan.looks, levels(plan.looks, plan.questions), strict=True))
    level = spent.get(ruling.look) or next(iter(spent.values()))
    exploratory = bool(study.record.earlier)
    judgement = Judgement(name, claim, shown, scaled, baseline, differences, ruling.verdicts, ruling.missing, level, exploratory)
    judgement = replace(judgement, contrasts={subject: each for subject, each in contrasts.items() if subject in differences})
    differences |= {arm: _as_read(sample, judgement.about(arm)) for arm, sample in differences.items()}
    if judgement.per_arm:
        judgement = replace(judgement, own={arm: sample for arm, sample in differences.items() if arm != baseline})
    else:
        own = {
            subject: differences[subject] if contrasts else weighted(scaled, {subject: 1.0, each.against: -1.0}, exact, firsts)
            for subject, each in ruling.verdicts.items()
            if subject in differences and (contrasts or each.against)
        }
        own = {subject: _as_read(sample, ruling.verdicts[subject]) for subject, sample in own.items()}
        # A claim on a ratio names two arms as well, but is about how far the ratio is from a stated one.
        judgement = replace(judgement, own={key: each for key, each in own.items() if each.mean == ruling.verdicts[key].difference})
    remarks = [
        _exploratory(study),
        *_waiting(judgement),
        _control(judgement),
        _reasons(judgement),
        _unpaired(judgement),
        *comparable.remarks(study.record, study.measured),
        _more(study, judgement),
        _early(study, judgement),
        _heavy(judgement),
        _completeness(study),
    ]
    return replace(judgement, answer=_answer(judgement), remarks=[text for text in remarks if text])


def _as_read(sample, verdict):
    """A Sample of differences, without the seeds that ended after the look at which its verdict was read."""
    return sample if verdict is None or verdict.difference is None else sample.first(verdict.n)


def _zero(values, exact):
    """The baseline's difference from itself."""
    return Sample(dict.fromkeys(values, 0.0), exact)


def lines(judged):
    """The sentences of several Judgements; with more than one, each claim's name stands before its answer."""
    named = len(judged) > 1
    said = [f"{each.name}: {text}" if named and text == each.answer else text for each in judged for text in each.sentences]
    return list(dict.fromkeys(said))  # what is said of the study is the same for every claim


def tuning_warnings(study):
    """Sentences that belong beside the verdicts: tuned values at an end of their range, and values chosen another way."""
    sentences = together([*study.record.edges, *study.record.choices])
    return [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in sentences]


def summary(judgement, named=str):
    """The verdicts in one line, for a figure's title; `named(name)` is how the figure writes the name of an arm or a contrast."""
    if not judgement.per_arm:
        within = " within seeds" if judgement.paired else ""
        return f"Comparisons{within}" if judgement.contrasts else f"Compared with {named(judgement.baseline)}"
    if judgement.contrasts and judgement.verdicts:
        groups: dict[str, list[str]] = {}
        for subject in judgement.verdicts:
            groups.setdefault(judgement.word(subject), []).append(named(subject))
        said = [f"{listed_names(them)}: {word}" for word, them in groups.items()]
        if len(judgement.verdicts) >= NAMED:
            said = [f"{len(them)} {word}" for word, them in groups.items()]
        return f"{'; '.join(said)}{' (exploratory)' if judgement.exploratory else ''}"
    parts = []
    for word, arms in _grouped(judgement).items():
        who = listed_names(list(map(named, arms))) if len(arms) <= NAMED else times(len(arms), "arm")
        parts.append(f"{who} {'is' if len(arms) == 1 else 'are'} {'no different' if word == SAME else word}")
    if parts:
        return f"Compared with {named(judgement.baseline)}: {'; '.join(parts)}{' (exploratory)' if judgement.exploratory else ''}"
    return "No verdict yet" if judgement.missing else "Only one arm: nothing to compare"


def _grouped(judgement):
    """{word: subjects} without the baseline; known words first, words of a user's own claim after them."""
    verdicts = {subject: each for subject, each in judgement.verdicts.items() if each.word != BASELINE}
    order = [WORSE, BETTER, SAME, SUPPORTED, CONTRADICTED, UNSTABLE, NOT_COMPARABLE, UNDECIDED]
    words = dict.fromkeys([*order, *(verdict.word for verdict in verdicts.values())])
    groups = {word: [subject for subject, verdict in verdicts.items() if verdict.word == word] for word in words}
    return {word: subjects for word, subjects in groups.items() if subjects}


def _answer(judgement):
    """What the study found: subject by subject, grouped by verdict."""
    if not judgement.per_arm:
        return _statements(judgement)
    if judgement.contrasts:
        return _comparisons(judgement)
    if len(judgement.differences) == 1:
        return f"There is only one arm, {judgement.baseline}, so there is nothing to compare."
    groups, shown = _grouped(judgement), judgement.shown
    quantity = shown.quantity[0].upper() + shown.quantity[1:]
    if not groups:
        return f"{quantity} compared with {judgement.baseline}: no verdict yet."
    parts = []
    for word, arms in groups.items():
        verb = "is" if len(arms) == 1 else "are"
        if word in (UNSTABLE, NOT_COMPARABLE):
            parts += [f"{arm} is {word}: {judgement.verdicts[arm].reason}" for arm in arms]
        else:
            parts.append(f"{listed_names(arms)} {verb} {_tail(judgement, word)}")
    return f"{quantity} compared with {judgement.baseline}: {'; '.join(parts)}."


def _comparisons(judgement):
    """What became of each comparison of a study that does not compare every arm with the first."""
    quantity = judgement.shown.quantity[0].upper() + judgement.shown.quantity[1:]
    if not judgement.verdicts:
        return f"{quantity}: no verdict yet."
    parts = [said for subject in judgement.contrasts if (said := compared(judgement, subject))]
    return f"{quantity}: {'; '.join(parts)}."


def compared(judgement, subject):
    """One comparison with its verdict, as a clause: `worse: cap=on against cap=off, averaged over W`."""
    contrast, word = judgement.contrasts[subject], judgement.word(subject)
    if not word:
        return ""
    verdict = judgement.verdicts[subject]
    if verdict.word in (UNSTABLE, NOT_COMPARABLE):
        return f"{what(subject, contrast)} is {word}: {verdict.reason}"
    if verdict.word == SAME and isinstance(judgement.claim, Equivalent):
        word += f" beyond the margin of {judgement.shown.margin(judgement.margin)}"
    return f"{word}: {in_words(judgement, subject)}"


def in_words(judgement, subject):
    """A comparison as a clause; of an interaction: `the effect of cap=on is larger at W=16 than at W=4`."""
    contrast, sample = judgement.contrasts[subject], judgement.differences[subject]
    if not contrast.at or sample.mean is None:
        return what(subject, contrast)
    side = "larger" if sample.mean > 0 else "smaller"
    return f"the effect of {contrast.effect} is {side} at {contrast.at} than at {contrast.than}{where(contrast)}"


def _tail(judgement, word):
    if not isinstance(judgement.claim, Equivalent):
        return word
    margin = judgement.shown.margin(judgement.margin)
    return {SAME: f"no different by more than the margin of {margin}"}.get(word, word)


def quantity(shown):
    """`perplexity`; of another loss than the report split's own with its name: `perplexity (extrapolated loss@512)`."""
    plain = shown.quantity == shown.short or shown.name == "report/loss"
    return shown.quantity if plain else f"{shown.quantity} ({shown.short})"


def statement(judgement, subject, verdict):
    """What a claim that is true or false says of a subject, and in which quantity."""
    said = judgement.claim.statement(subject, verdict, judgement.shown.metric)
    return said if judgement.shown.name in said else f"{said}, in {quantity(judgement.shown)}"


def _statements(judgement):
    """What became of claims that are true or false: `supported: ... (+0.3 % [...])`."""
    parts = []
    for subject, verdict in judgement.verdicts.items():
        source = getattr(judgement.claim.config, "source", "")
        cited = f" ({source})" if source else ""
        detail = "" if subject in judgement.differences and verdict.interval else verdict.reason  # its numbers are in the table
        parts.append(f"{judgement.word(subject)}: {statement(judgement, subject, verdict)}{cited}{f'; {detail}' if detail else ''}")
    text = "; ".join(parts) or "no verdict yet"
    return f"{text[0].upper()}{text[1:]}."


def _exploratory(study):
    """A sentence on looks that the plan does not pay for; empty if there are none."""
    earlier = study.record.earlier
    if not earlier:
        return ""
    said = []
    for each in earlier:
        where = f"of {each.study} " if each.study else ""
        said.append(
            f"a look {where}at {listed([str(look.seeds) for look in each.looks])} seeds under another plan ({each.why} differ)"
        )
    level = share(ALPHA * (1 + len(earlier)))
    return (
        f"Exploratory: before this plan there was {listed(said)}, at some of the same runs. Nothing pays for that, so the "
        f"chance of a false verdict is up to {level} and not {share(ALPHA)}; other runs, planned beforehand, would confirm."
    )


def _waiting(judgement):
    """Sentences on subjects whose verdict cannot be read yet."""
    groups: dict[str, list[str]] = {}
    for subject, text in judgement.missing.items():
        groups.setdefault(text, []).append(subject)
    return [f"{listed_names(subjects)}: no verdict yet, {text}." for text, subjects in groups.items()]


def _control(judgement):
    """A sentence on whether this study can see a difference; empty for one arm, another kind of claim, or an exact number."""
    verdicts, claim = judgement.verdicts, judgement.claim
    alone = len(judgement.differences) == 1 and not judgement.contrasts
    if alone or not isinstance(claim, Equivalent) or is_cost(judgement.shown.name):
        return ""
    margin = judgement.shown.margin(judgement.margin)
    named = [arm for arm in claim.config.known_worse if arm in verdicts]
    if not claim.config.known_worse:
        return (
            "The study names no arm known to be worse (`known_worse` of its claim). It therefore cannot show that it sees "
            "differences, so it concludes “no difference” only of an arm whose own interval excludes zero."
        )
    if not named:
        return ""
    missed = [arm for arm in named if verdicts[arm].word != WORSE]
    if missed:
        were = "was" if len(missed) == 1 else "were"
        return (
            f"{listed_names(missed)}, known to be worse, {were} not found worse by more than {margin}. The "
            "study misses a difference that is known to exist, so it does not conclude “no difference” of arms that may be equal."
        )
    return f"The study can see a known difference: it found {listed_names(named)} worse by more than the margin of {margin}."


def _reasons(judgement):
    """The reasons of undecided subjects, and those of a user's own claim."""
    if not judgement.per_arm:
        return ""
    groups: dict[str, list[str]] = {}
    for subject, verdict in judgement.verdicts.items():
        said = verdict.word in (UNSTABLE, NOT_COMPARABLE)
        control = isinstance(judgement.claim, Equivalent) and subject in judgement.claim.config.known_worse
        if verdict.reason and not said and not (control and verdict.word == UNDECIDED):
            groups.setdefault(verdict.reason, []).append(subject)
    return " ".join(f"{listed_names(subjects)}: {reason}." for reason, subjects in groups.items())


def _unpaired(judgement):
    """A sentence on what is compared without pairing; empty if all is compared within seeds."""
    named = [subject for subject, sample in judgement.differences.items() if not sample.paired]
    if not named:
        return ""
    verb = "is" if len(named) == 1 else "are"
    return (
        f"{listed_names(named)} {verb} compared without pairing, by Welch's t test: the seeds are others, so nothing that a seed "
        "shares cancels, and sd is that of the difference of two such runs."
    )


def _more(study, judgement):
    """Sentences on what would decide the undecided subjects; empty if there are none."""
    undecided = {subject: judgement.verdicts[subject] for subject in judgement.undecided}
    counted = {subject: verdict.needed for subject, verdict in undecided.items() if verdict.needed is not None}
    texts = []
    if counted:
        each = listed(f"{seeds_needed(needed)} for {_told_of(judgement, subject)}" for subject, needed in counted.items())
        texts.append(
            "Seeds per arm that a new study would need for a word with a chance of 80 %, if the difference stays as observed "
            f"(in brackets over an 80 % interval of the spread): {each}."
        )
    if undecided and study.record.larger_scale:
        texts.append(f"The larger scale `{study.record.larger_scale}` gives more evidence: `{larger_command(study.record)}`.")
    return " ".join(texts)


def _early(study, judgement):
    """A sentence on arms that were decided before the plan's last look."""
    last = court.plan_of(study.record).looks[-1]
    early = [arm for arm, each in judgement.verdicts.items() if each.word in (WORSE, BETTER) and 0 < each.n < last]
    if not early or len(court.plan_of(study.record).looks) == 1:
        return ""
    were = "was" if len(early) == 1 else "were"
    return f"{listed_names(early)} {were} decided before the last look: a difference that is found early looks larger than it is."


def _heavy(judgement):
    """A sentence that names a seed which carries more than half of the variance of a difference that is judged."""
    named = []
    for arm, sample in judgement.own.items():
        heaviest = sample.heaviest() if sample.n >= HEAVY_FROM else None
        if heaviest and heaviest[1] > HEAVY:
            named.append(f"seed {heaviest[0]} carries {share(heaviest[1])} of the variance of {_told_of(judgement, arm)}")
    text = listed(named)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _told_of(judgement, subject):
    """A subject with the claim's name, where several claims may speak of the same arm."""
    return subject if judgement.per_arm else f"{subject} in {judgement.name}"


def larger_command(record):
    """The command that runs a study at its larger scale."""
    command = record.command or f"archbench study run {record.name}"
    scale = f"--scale {record.larger_scale}"
    replaced, count = re.subn(r"--scale[ =]\S+", scale, command)
    return replaced if count else f"{command} {scale}"


def _completeness(study):
    """A sentence on planned runs that did not finish; empty if all finished."""
    counts = study.runs.status.value_counts()
    finished, planned = int(counts.get("finished", 0)), len(study.runs)
    if finished == planned:
        return ""
    others = listed(f"{count} {status}" for status, count in counts.items() if status != "finished")
    return f"Incomplete: {finished} of {times(planned, 'run')} finished ({others})."
