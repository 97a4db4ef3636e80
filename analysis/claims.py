"""What a study may claim: a verdict an arm, and an answer to its question in plain words.

"Worse" and "better" need a paired difference that survives Holm's correction. "No difference" needs an equivalence
test within the margin said beforehand, corrected too, and every arm known to be worse found worse by this same study:
a study that cannot see a known difference cannot say that there is none. All else is undecided.
"""

import math
import re
from dataclasses import dataclass

from analysis import stats
from analysis.units import SPACE, listed, p_value, percent, percent_interval, seeds, share, times
from sweeps.spec import ClaimSpec

WORSE, BETTER, SAME, UNDECIDED, BASELINE = "worse", "better", "no difference", "undecided", "baseline"
# Beyond so many, a title counts arms instead of naming them.
NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """An arm against the baseline. p, p_same: Holm-corrected, of a difference and of equivalence.

    seeds_needed: how many would decide an undecided arm with power 0.8 if its difference and spread stay as they
    are (infinite: over stats.MOST_SEEDS; None: not known). reason: why it is undecided, or a word of caution.
    """

    arm: str
    word: str
    difference: stats.Difference
    p: float | None = None
    p_same: float | None = None
    seeds_needed: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Judgement:
    """All verdicts of a study (the baseline's first), whether every arm known to be worse was found, and the answer."""

    claim: ClaimSpec
    verdicts: dict[str, Verdict]
    known_worse_found: bool
    answer: str
    remarks: list[str]

    @property
    def sentences(self):
        """The answer and what must be known with it."""
        return [self.answer, *self.remarks]

    @property
    def undecided(self):
        """The labels of the undecided arms."""
        return [arm for arm, verdict in self.verdicts.items() if verdict.word == UNDECIDED]


def judge(study):
    """The Judgement of a StudyData."""
    claim = ClaimSpec.parse(study.record.claim)
    found = verdicts(study.losses(claim.metric), claim.margin, claim.known_worse)
    detected = _known_worse_found(found, claim.known_worse)
    remarks = [_control(found, claim), _more(study, found, claim), _completeness(study)]
    return Judgement(claim, found, detected, _answer(found, claim), [text for text in remarks if text])


def verdicts(losses, margin, known_worse=()):
    """{arm: Verdict} from {arm: {seed: loss in nats}}, the baseline first; margin is relative (0.01 is 1 %)."""
    baseline, *arms = losses
    low, high = stats.margin_nats(margin)
    differences = {arm: stats.paired_difference(losses[arm], losses[baseline]) for arm in arms}
    p = dict(zip(arms, stats.holm([differences[arm].p for arm in arms]), strict=True))
    # Nobody asks whether an arm known to be worse is the same, so it takes no part in that correction.
    asked = [arm for arm in arms if arm not in known_worse]
    p_same = dict(zip(asked, stats.holm([stats.equivalence_p(differences[arm], low, high) for arm in asked]), strict=True))
    undetected = [arm for arm in known_worse if not _is_worse(differences.get(arm), p.get(arm))]
    family = _Family(margin, max(1, len(arms)), list(known_worse), undetected, differences)
    found = {baseline: Verdict(baseline, BASELINE, stats.paired_difference(losses[baseline], losses[baseline]))}
    for arm in arms:
        found[arm] = _verdict(arm, differences[arm], p[arm], p_same.get(arm), family)
    return found


@dataclass(frozen=True)
class _Family:
    """What the verdict of one arm needs to know of the others. size: how many comparisons share the correction."""

    margin: float
    size: int
    known_worse: list[str]
    undetected: list[str]
    differences: dict[str, stats.Difference]

    @property
    def sees_differences(self):
        return bool(self.known_worse) and not self.undetected


def _is_worse(difference, p):
    return p is not None and p < stats.ALPHA and difference.mean > 0


def _verdict(arm, difference, p, p_same, family):
    same = p_same is not None and p_same < stats.ALPHA
    if p is not None and p < stats.ALPHA:
        word = WORSE if difference.mean > 0 else BETTER
        reason = f"by less than the margin of {share(family.margin)}" if same else ""
        return Verdict(arm, word, difference, p, p_same, reason=reason)
    if same and family.sees_differences:
        return Verdict(arm, SAME, difference, p, p_same)
    needed = _seeds_needed(arm, difference, same, family)
    return Verdict(arm, UNDECIDED, difference, p, p_same, needed, _why_undecided(difference, same, family))


def _why_undecided(difference, same, family):
    margin = share(family.margin)
    if difference.n == 0:
        return "no seed has finished in this arm and in the baseline"
    if difference.n == 1:
        return "one seed alone gives no interval"
    if same and not family.known_worse:
        return f"within ±{margin}, but the study names no arm known to be worse that could show that it would see one"
    if same:
        return f"within ±{margin}, but {listed(family.undetected)}, known to be worse, was not found worse"
    return f"neither a difference nor a difference within ±{margin} is shown"


def _seeds_needed(arm, difference, same, family):
    """Seeds that decide an arm one way or the other, at the strictest level that the correction may ask for."""
    if difference.n < 2:
        return None
    alpha = stats.ALPHA / family.size
    by_difference = stats.seeds_for_difference(difference.mean, difference.sd, alpha)
    if arm in family.known_worse:
        return by_difference if difference.mean > 0 else math.inf
    if not family.known_worse:
        return by_difference
    low, high = stats.margin_nats(family.margin)
    own = difference.n if same else stats.seeds_for_equivalence(difference.mean, difference.sd, low, high, alpha)
    controls = [_seeds_to_detect(family.differences.get(other), alpha) for other in family.undetected]
    return max(min(by_difference, max([own, *controls])), difference.n + 1)


def _seeds_to_detect(difference, alpha):
    """Seeds at which an arm known to be worse is found worse, as far as its difference so far says."""
    if difference is None or difference.n < 2 or difference.mean <= 0:
        return math.inf
    return stats.seeds_for_difference(difference.mean, difference.sd, alpha)


def _known_worse_found(found, known_worse):
    return bool(known_worse) and all(found[arm].word == WORSE for arm in known_worse if arm in found)


def described(verdict):
    """`+8.31 % [+6.10, +10.5]`: an arm's relative difference in perplexity and its interval."""
    difference = verdict.difference
    if not difference.n:
        return "no data"
    text = percent(stats.relative(difference.mean))
    if difference.low is None:
        return text
    return f"{text} {percent_interval(stats.relative(difference.low), stats.relative(difference.high))}"


def summary(found):
    """The verdicts in one short line, e.g. for a figure's title."""
    baseline = next(iter(found))
    groups = _grouped(found)
    said = {WORSE: "worse", BETTER: "better", SAME: "no different", UNDECIDED: "undecided"}
    parts = []
    for word, arms in groups.items():
        if arms:
            who = listed(arms) if len(arms) <= NAMED else times(len(arms), "arm")
            parts.append(f"{who} {'is' if len(arms) == 1 else 'are'} {said[word]}")
    return f"Against {baseline}: {'; '.join(parts)}" if parts else "One arm, so nothing to compare"


def _grouped(found):
    return {word: [arm for arm, v in found.items() if v.word == word] for word in (WORSE, BETTER, SAME, UNDECIDED)}


def _answer(found, claim):
    """What the study found, arm by arm, grouped by verdict."""
    baseline = next(iter(found))
    if len(found) == 1:
        return f"There is only one arm, {baseline}, so there is nothing to compare."
    groups, margin = _grouped(found), share(claim.margin)
    said = {
        WORSE: lambda arms, be: f"{arms} {be} worse",
        BETTER: lambda arms, be: f"{arms} {be} better",
        SAME: lambda arms, be: f"{arms} {be} no different beyond the margin of {margin}",
        UNDECIDED: lambda arms, be: f"{arms} {be} undecided: neither shown to differ nor shown to be within {margin}",
    }
    parts = []
    for word, say in said.items():
        if groups[word]:
            arms = listed(f"{arm} ({described(found[arm])})" for arm in groups[word])
            parts.append(say(arms, "is" if len(groups[word]) == 1 else "are"))
    return f"Against {baseline}, in perplexity [95{SPACE}% interval]: {'; '.join(parts)}."


def _control(found, claim):
    """Whether this study could have seen a difference."""
    named = [arm for arm in claim.known_worse if arm in found]
    if len(found) == 1:
        return ""
    if not named:
        return (
            "The study names no arm known to be worse (claim.known_worse), so it cannot show that it would see a "
            "difference, and never claims that there is none."
        )
    missed = [arm for arm in named if found[arm].word != WORSE]
    if any(found[arm].difference.n < 2 for arm in missed):
        return f"Until {listed(missed)}, known to be worse, has enough finished seeds and is found worse, no equality is claimed."
    if missed:
        return (
            f"{listed(missed)}, known to be worse, {'was' if len(missed) == 1 else 'were'} not found worse: at this "
            "size the study does not see even a difference that is there, so it claims no equality."
        )
    shown = listed(f"{arm} (Holm p {p_value(found[arm].p)})".replace("p <", "p < ") for arm in named)
    return f"The study could have seen a difference: it found {shown}, known to be worse, to be worse."


def _more(study, found, claim):
    """What would decide the undecided arms."""
    undecided = [verdict for verdict in found.values() if verdict.word == UNDECIDED]
    if not undecided:
        return ""
    texts = []
    counted = [verdict for verdict in undecided if verdict.seeds_needed is not None]
    if counted:
        each = listed(f"{seeds(v.seeds_needed)} for {v.arm}" for v in counted)
        texts.append(f"Seeds that would decide, if differences and spreads stay as observed: {each}.")
    if study.record.larger_scale:
        texts.append(f"The larger scale `{study.record.larger_scale}` can tell more: `{larger_command(study.record)}`.")
    elif not counted:
        texts.append("More seeds are needed.")
    return " ".join(texts)


def larger_command(record):
    """The command that runs a study at its larger scale."""
    command = record.command or f"python -m sweeps run {record.name}"
    scale = f"--scale {record.larger_scale}"
    replaced, count = re.subn(r"--scale[ =]\S+", scale, command)
    return replaced if count else f"{command} {scale}"


def _completeness(study):
    """Says so where not every planned run is in."""
    counts = study.runs.status.value_counts()
    finished, planned = int(counts.get("finished", 0)), len(study.runs)
    if finished == planned:
        return ""
    others = listed(f"{count} {status}" for status, count in counts.items() if status != "finished")
    return (
        f"Incomplete: {finished} of {times(planned, 'run')} finished ({others}). "
        "Each comparison uses the seeds that both arms finished, and may change with the rest."
    )
