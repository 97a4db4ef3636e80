"""What a study may say: the verdicts of its claims, and an answer to its question in words.

The claims themselves judge (`sweeps/claims/`); here their verdicts become sentences.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.shown import Shown
from arch import registry
from arch.contracts import Verdict
from arch.units import SPACE, p_value
from arch.words import listed, times
from sweeps.claims.against_baseline import BASELINE, BETTER, SAME, UNDECIDED, WORSE, AgainstBaseline
from sweeps.compare import on_scale
from sweeps.stats import MOST_SEEDS, Difference, paired_difference

# With more arms than this, a title counts the arms instead of naming them.
NAMED = 5


@dataclass(frozen=True)
class Judgement:
    """All verdicts of one claim, the baseline's first, and the answer in words.

    name: the claim's name in the study. claim: the component. shown: its metric. scaled: {arm: {seed: value}} on the
    scale of `sweeps.compare`. differences: every arm's from the baseline, on that scale.
    """

    name: str
    claim: Any
    shown: Shown
    scaled: dict[str, dict[int, float]]
    differences: dict[str, Difference]
    verdicts: dict[str, Verdict]
    answer: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def baseline(self):
        """The label of the first arm."""
        return next(iter(self.differences))

    @property
    def sentences(self):
        """The answer, then the remarks that qualify it."""
        return [self.answer, *self.remarks]

    @property
    def undecided(self):
        """The labels of the undecided arms."""
        return [arm for arm, verdict in self.verdicts.items() if verdict.word == UNDECIDED]

    @property
    def margin(self):
        """The effect that is too small to matter, as the claim states it (0.01 is 1 %); None if it states none."""
        return getattr(self.claim.config, "margin", None)

    @property
    def known_worse_found(self):
        """Whether there are arms known to be worse and all were found worse."""
        known = [arm for arm in _known_worse(self.claim) if arm in self.verdicts]
        return bool(known) and all(self.verdicts[arm].word == WORSE for arm in known)


def judgements(study):
    """The Judgement of every claim of a StudyData, in the study's order."""
    return [judge(study, name) for name in study.record.claims]


def judge(study, name=None):
    """The Judgement of one claim of a StudyData; by default of the first, which the main table shows."""
    name = next(iter(study.record.claims)) if name is None else name
    claim = registry.build("claim", study.record.claims[name])
    shown = Shown(claim.config.metric, study.metric(claim.config.metric))
    values = study.values(shown.name)
    scaled = {arm: {seed: on_scale(value, shown.metric) for seed, value in each.items()} for arm, each in values.items()}
    differences = {arm: paired_difference(scaled[arm], scaled[study.baseline]) for arm in scaled}
    verdicts = dict(claim.judge(values, shown.metric))
    judgement = Judgement(name, claim, shown, scaled, differences, verdicts)
    remarks = [_control(judgement), _reasons(judgement), _more(study, judgement), _completeness(study)]
    return replace(judgement, answer=_answer(judgement), remarks=[text for text in remarks if text])


def lines(judged):
    """The sentences of several Judgements; with more than one, each claim's name stands before its answer."""
    named = len(judged) > 1
    said = [f"{each.name}: {text}" if named and text == each.answer else text for each in judged for text in each.sentences]
    return list(dict.fromkeys(said))  # the sentence on unfinished runs is the same for every claim


def tuning_warnings(study):
    """Sentences that belong beside the verdicts: tuned values at an end of their range, and values chosen another way."""
    sentences = [*study.record.edges, *study.record.choices]
    return [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in sentences]


def _known_worse(claim):
    return claim.config.known_worse if isinstance(claim, AgainstBaseline) else ()


def described(judgement, arm):
    """`+8.31 % [+6.10, +10.5]`: an arm's difference from the baseline and its interval, as the metric is shown."""
    shown, difference = judgement.shown, judgement.differences[arm]
    if not difference.n:
        return "no data"
    text = shown.change(shown.effect(difference.mean))
    if difference.low is None:
        return text
    return f"{text} {shown.change_interval(shown.effect(difference.low), shown.effect(difference.high))}"


def summary(judgement):
    """The verdicts in one short line, e.g. for a figure's title."""
    parts = []
    for word, arms in _grouped(judgement.verdicts).items():
        who = listed(arms) if len(arms) <= NAMED else times(len(arms), "arm")
        parts.append(f"{who} {'is' if len(arms) == 1 else 'are'} {'no different' if word == SAME else word}")
    return f"Compared with {judgement.baseline}: {'; '.join(parts)}" if parts else "Only one arm: nothing to compare"


def _grouped(verdicts):
    """{word: arms} without the baseline; known words first, words of a user's own claim after them."""
    words = dict.fromkeys([WORSE, BETTER, SAME, UNDECIDED, *(verdict.word for verdict in verdicts.values())])
    groups = {word: [arm for arm, verdict in verdicts.items() if verdict.word == word] for word in words if word != BASELINE}
    return {word: arms for word, arms in groups.items() if arms}


def _answer(judgement):
    """What the study found, arm by arm, grouped by verdict."""
    baseline, shown = judgement.baseline, judgement.shown
    if len(judgement.differences) == 1:
        return f"There is only one arm, {baseline}, so there is nothing to compare."
    tails = {}
    if isinstance(judgement.claim, AgainstBaseline):
        margin = shown.margin(judgement.margin)
        tails = {
            SAME: f"no different: the difference is within the margin of {margin}",
            UNDECIDED: f"undecided: the data show neither a difference nor equivalence within {margin}",
        }
    parts = []
    for word, arms in _grouped(judgement.verdicts).items():
        names = listed(f"{arm} ({described(judgement, arm)})" for arm in arms)
        parts.append(f"{names} {'is' if len(arms) == 1 else 'are'} {tails.get(word, word)}")
    quantity = shown.quantity[0].upper() + shown.quantity[1:]
    return f"{quantity} compared with {baseline}, with 95{SPACE}% intervals in brackets: {'; '.join(parts)}."


def _control(judgement):
    """A sentence on whether this study can detect a difference; empty if it has only one arm or another kind of claim."""
    verdicts, claim = judgement.verdicts, judgement.claim
    if len(verdicts) == 1 or not isinstance(claim, AgainstBaseline):
        return ""
    named = [arm for arm in claim.config.known_worse if arm in verdicts]
    if not named:
        return (
            "The study names no arm known to be worse (`known_worse` of its claim). It therefore cannot show that it "
            "detects differences, so it never concludes “no difference”."
        )
    missed = [arm for arm in named if verdicts[arm].word != WORSE]
    if any(judgement.differences[arm].n < 2 for arm in missed):
        return f"“No difference” cannot be concluded until {listed(missed)}, known to be worse, has more seeds and is found worse."
    if missed:
        return (
            f"{listed(missed)}, known to be worse, {'was' if len(missed) == 1 else 'were'} not found worse. At this "
            "size the study misses a difference that is known to exist, so it does not conclude “no difference”."
        )
    shown = listed(f"{arm} (Holm p {p_value(verdicts[arm].p)})".replace("p <", "p < ") for arm in named)
    return f"The study can detect a known difference: it found {shown} worse, as expected."


def _reasons(judgement):
    """The reasons of the verdicts of a user's own claim; those of AgainstBaseline are in the answer and in the table."""
    if isinstance(judgement.claim, AgainstBaseline):
        return ""
    reasons = [f"{arm}: {verdict.reason}." for arm, verdict in judgement.verdicts.items() if verdict.reason]
    return " ".join(reasons)


def _more(study, judgement):
    """Sentences on what would decide the undecided arms; empty if there are none."""
    undecided = {arm: judgement.verdicts[arm] for arm in judgement.undecided}
    if not undecided:
        return ""
    texts = []
    counted = {arm: verdict.seeds_needed for arm, verdict in undecided.items() if verdict.seeds_needed is not None}
    if counted:
        each = listed(f"{seeds(needed)} for {arm}" for arm, needed in counted.items())
        texts.append(f"Seeds per arm needed to decide, if differences and spreads stay as observed: {each}.")
    if study.record.larger_scale:
        texts.append(f"The larger scale `{study.record.larger_scale}` gives more evidence: `{larger_command(study.record)}`.")
    elif not counted:
        texts.append("More seeds are needed.")
    return " ".join(texts)


def seeds(count):
    """A number of seeds; `>1000` (stats.MOST_SEEDS) for infinity."""
    return f">{MOST_SEEDS}" if count > MOST_SEEDS else f"{count:.0f}"


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
    return (
        f"Incomplete: {finished} of {times(planned, 'run')} finished ({others}). "
        "Each comparison uses the seeds that both arms finished, and may change when more runs finish."
    )
