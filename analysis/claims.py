"""What a study may claim: one verdict per arm, and an answer to the study's question in words.

"Worse" and "better" need a paired difference that is significant after Holm's correction. "No difference" needs two
things: an equivalence test within the margin stated beforehand, corrected too; and every arm known to be worse must be
found worse by the same study, since a study that misses a known difference cannot say that there is none. All other
arms are undecided.
"""

import math
import re
from dataclasses import dataclass

from analysis import stats
from analysis.words import listed, p_value, percent_interval, seeds, times
from arch.units import SPACE, percent, share
from sweeps.spec import ClaimSpec

WORSE, BETTER, SAME, UNDECIDED, BASELINE = "worse", "better", "no difference", "undecided", "baseline"
# With more arms than this, a title counts the arms instead of naming them.
NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """An arm compared with the baseline. p, p_same: Holm-corrected p values of a difference and of equivalence.

    seeds_needed: how many seeds would decide an undecided arm with power 0.8 if its difference and spread stay as
    observed (infinite: more than stats.MOST_SEEDS; None: unknown). reason: why the arm is undecided, or a caveat.
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
    """All verdicts of a study, the baseline's first, and the answer in words.

    known_worse_found: whether there are arms known to be worse and all were found worse.
    """

    claim: ClaimSpec
    verdicts: dict[str, Verdict]
    known_worse_found: bool
    answer: str
    remarks: list[str]

    @property
    def sentences(self):
        """The answer, then the remarks that qualify it."""
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
    """{arm: Verdict} from {arm: {seed: loss in nats}}, the baseline first. margin is relative: 0.01 is 1 %."""
    baseline, *arms = losses
    low, high = stats.margin_nats(margin)
    differences = {arm: stats.paired_difference(losses[arm], losses[baseline]) for arm in arms}
    p = dict(zip(arms, stats.holm([differences[arm].p for arm in arms]), strict=True))
    # An arm known to be worse is not tested for equivalence, so it does not count in that correction.
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
    """What the verdict of one arm needs to know about the others. size: the number of comparisons to correct for."""

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
        return "no seed has finished in both this arm and the baseline"
    if difference.n == 1:
        return "one seed gives no interval"
    if same and not family.known_worse:
        return f"within ±{margin}, but the study names no arm known to be worse, so it cannot show that it detects differences"
    if same:
        return f"within ±{margin}, but {listed(family.undetected)}, known to be worse, was not found worse"
    return f"neither a difference nor equivalence within ±{margin} is shown"


def _seeds_needed(arm, difference, same, family):
    """The number of seeds that decide an arm one way or the other, at the strictest level of the correction."""
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
    """The number of seeds at which an arm known to be worse is found worse, judged by its difference so far."""
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
    return f"Compared with {baseline}: {'; '.join(parts)}" if parts else "Only one arm: nothing to compare"


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
        SAME: lambda arms, be: f"{arms} {be} no different: the difference is within the margin of {margin}",
        UNDECIDED: lambda arms, be: f"{arms} {be} undecided: the data show neither a difference nor equivalence within {margin}",
    }
    parts = []
    for word, say in said.items():
        if groups[word]:
            arms = listed(f"{arm} ({described(found[arm])})" for arm in groups[word])
            parts.append(say(arms, "is" if len(groups[word]) == 1 else "are"))
    return f"Perplexity compared with {baseline}, with 95{SPACE}% intervals in brackets: {'; '.join(parts)}."


def _control(found, claim):
    """A sentence on whether this study can detect a difference; empty if it has only one arm."""
    named = [arm for arm in claim.known_worse if arm in found]
    if len(found) == 1:
        return ""
    if not named:
        return (
            "The study names no arm known to be worse (claim.known_worse). It therefore cannot show that it detects "
            "differences, so it never concludes “no difference”."
        )
    missed = [arm for arm in named if found[arm].word != WORSE]
    if any(found[arm].difference.n < 2 for arm in missed):
        return f"“No difference” cannot be concluded until {listed(missed)}, known to be worse, has more seeds and is found worse."
    if missed:
        return (
            f"{listed(missed)}, known to be worse, {'was' if len(missed) == 1 else 'were'} not found worse. At this "
            "size the study misses a difference that is known to exist, so it does not conclude “no difference”."
        )
    shown = listed(f"{arm} (Holm p {p_value(found[arm].p)})".replace("p <", "p < ") for arm in named)
    return f"The study can detect a known difference: it found {shown} worse, as expected."


def _more(study, found, claim):
    """Sentences on what would decide the undecided arms; empty if there are none."""
    undecided = [verdict for verdict in found.values() if verdict.word == UNDECIDED]
    if not undecided:
        return ""
    texts = []
    counted = [verdict for verdict in undecided if verdict.seeds_needed is not None]
    if counted:
        each = listed(f"{seeds(v.seeds_needed)} for {v.arm}" for v in counted)
        texts.append(f"Seeds per arm needed to decide, if differences and spreads stay as observed: {each}.")
    if study.record.larger_scale:
        texts.append(f"The larger scale `{study.record.larger_scale}` gives more evidence: `{larger_command(study.record)}`.")
    elif not counted:
        texts.append("More seeds are needed.")
    return " ".join(texts)


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
