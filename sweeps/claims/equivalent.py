"""Every arm against the first, or other comparisons: no difference that matters, worse, better, or undecided.

"No difference" is a claim too. It needs an interval inside the margin that was stated beforehand (two one-sided tests,
Schuirmann 1987), and a sign that the study can see differences: every arm that is known to be worse (a *control*) is
found worse by more than the margin, or the arm's own interval excludes zero. "Worse" and "better" need an interval that
excludes zero. What is shown to be smaller than the margin does not matter, so that word comes first.
"""

from arch.contracts import UNDECIDED, Metric, Verdict
from arch.errors import SpecError
from arch.registry import claim
from arch.spec import List, Spec, later
from arch.words import listed
from sweeps import contrasts, paired, stats
from sweeps.compare import bounds, harm, margin_text
from sweeps.contrasts import Contrast, against

WORSE, BETTER, SAME, BASELINE = "worse", "better", "no difference", "baseline"


@claim
class Equivalent:
    """Paired differences of every arm from the first (or `to`), with the words above."""

    class Config(Spec):
        """metric: SPLIT/METRIC. margin: the difference that is too small to matter.

        The margin is a fraction (0.01 is 1 %) of what the metric is shown as (perplexity for a loss), or in the metric's
        unit for a metric that is compared by difference. known_worse: arms known to be worse than the baseline by more
        than the margin. A study that does not find them worse could not have seen a difference. arms: the arms that are
        asked about; by default all others. to: the arm that they are compared with; by default the first. contrasts: what
        is compared instead, {subject: Contrast}; `compare` of a study fills them in. A control is then compared with what
        its pair names, or else with the first arm.
        """

        metric: str = "report/loss"
        margin: paired.Margin = 0.01
        known_worse: List[str] = ()
        arms: List[str] = ()
        to: str | None = None
        contrasts: dict[str, Contrast] = later({})

    def __init__(self, config: Config):
        self.config = config

    def check(self, arms):
        """Raises SpecError for an arm that does not exist, and for a baseline that is to be compared with itself."""
        labels = list(arms)
        if self.config.contrasts and (self.config.arms or self.config.to):
            raise SpecError("the claim has `contrasts`, which say what is compared", ("arms" if self.config.arms else "to",))
        contrasts.check(self.config.contrasts, labels)
        if self.config.to is not None:
            paired.known(self.config.to, labels, ("to",))
        for key in ("known_worse", "arms"):
            named = getattr(self.config, key)
            paired.known(named, labels, (key,))
            if self._baseline(labels) in named:
                reason = f"{self._baseline(labels)!r} is the baseline; it is not compared with itself"
                raise SpecError(reason, (key, named.index(self._baseline(labels))))

    def _baseline(self, arms):
        return self.config.to or arms[0]

    def controls(self, arms):
        """{arm: Contrast} of the controls: each as in its first pair, or else against the baseline."""
        named = {contrast.pair[1]: contrast for contrast in reversed(self.config.contrasts.values()) if contrast.pair}
        baseline = self._baseline(arms)
        return {arm: named.get(arm) or against(arm, baseline) for arm in self.config.known_worse}

    def compared(self, arms):
        """{subject: Contrast} of all that is asked: every arm against the baseline, or the claim's contrasts; no controls."""
        if self.config.contrasts:
            gates = [contrast.weights for contrast in self.controls(arms).values()]
            return {subject: each for subject, each in self.config.contrasts.items() if each.weights not in gates}
        baseline = self._baseline(arms)
        asked = [arm for arm in self.config.arms or arms if arm not in (baseline, *self.config.known_worse)]
        return {arm: against(arm, baseline) for arm in asked}

    def questions(self, arms):
        """One question for each comparison; the controls are gates, unless there is nothing else to ask.

        It needs the runs of the controls, and of what they are compared with, too.
        """
        asked, gates = self.compared(arms), self.controls(arms)
        if not asked:
            return {arm: contrast.arms for arm, contrast in gates.items()}
        opened = dict.fromkeys(arm for contrast in gates.values() for arm in contrast.arms)
        return {subject: tuple(dict.fromkeys((*each.negative, *opened, *each.arms))) for subject, each in asked.items()}

    def judge(self, evidence):
        """{subject: Verdict} of every comparison, of the controls and, where all have the same, of the baseline."""
        measured = evidence.measured[self.config.metric]
        arms = list(measured.values)
        baseline, metric = self._baseline(arms), measured.metric
        asked, gates = self.compared(arms), self.controls(arms)
        verdicts = {} if self.config.contrasts else {baseline: Verdict(BASELINE, n=len(measured.values[baseline]))}
        # Where nothing else is asked, the controls are the questions. Either way they share the error.
        level = evidence.control / max(1, len(gates)) if asked else evidence.level
        for arm, contrast in gates.items():
            sample = paired.weighted(measured, contrast.weights)
            verdicts[arm] = evidence.before.get(arm) or self._control(sample, metric, level, contrast.arms[0])
        missed = [arm for arm in gates if verdicts[arm].word != WORSE]
        for subject, contrast in asked.items():
            sample = paired.weighted(measured, contrast.weights)
            reference = contrast.pair[0] if contrast.pair else ""
            verdicts[subject] = self._verdict(sample, metric, evidence.level, reference, missed)
        order = [*asked, *gates] if self.config.contrasts else arms
        return {subject: verdicts[subject] for subject in order if subject in verdicts}

    def _control(self, sample, metric, level, baseline):
        """A control is no question but a gate: worse by more than the margin, or not found so."""
        p = paired.p_worse(sample, self.config.margin, metric)
        facts = {"p": p, "against": baseline, "difference": sample.mean, "n": sample.n, "level": level}
        facts |= {"interval": sample.interval(2 * level)}
        if p <= level:
            return Verdict(WORSE, **facts)
        low, high = bounds(self.config.margin, metric)
        edges = (high, float("inf")) if metric.better == "lower" else (-float("inf"), low)
        needed = stats.seeds_to_pass(sample, *edges, WORSE, level)
        reason = paired.untestable(sample) or f"known to be worse, but not found worse by more than {self._margin(metric)}"
        if paired.p_better(sample, self.config.margin, metric) <= level:
            needed, reason = None, f"known to be worse, but it is not worse by more than {self._margin(metric)}"
        return Verdict(UNDECIDED, needed=needed, reason=reason, **facts)

    def _verdict(self, sample, metric, level, baseline, missed):
        if metric.better == "neither":
            harm(0.0, metric)
        low, high = bounds(self.config.margin, metric)
        p = min(1.0, 2 * min(sample.p_above(0.0), sample.p_below(0.0)))
        p_same = max(sample.p_above(low), sample.p_below(high))
        facts = {"p": p, "p_same": p_same, "against": baseline, "difference": sample.mean, "n": sample.n, "level": level}
        facts |= {"interval": sample.interval(level), "inner": sample.interval(2 * level)}
        differs, inside = p <= level, p_same <= level
        if inside and differs and sample.mean:
            return Verdict(SAME, reason=f"not zero, but within the margin of {self._margin(metric)}", **facts)
        # An exact number needs no sign that the study can see differences.
        if inside and (sample.exact or (self.config.known_worse and not missed)):
            return Verdict(SAME, **facts)
        if differs:
            return Verdict(WORSE if harm(sample.mean, metric) > 0 else BETTER, **facts)
        reason = paired.untestable(sample) or self._why_undecided(inside, missed, metric)
        return Verdict(UNDECIDED, reason=reason, needed=self._needed(sample, inside, level, metric), **facts)

    def _why_undecided(self, inside, missed, metric):
        margin = self._margin(metric)
        if inside and not self.config.known_worse:
            return (
                f"within {margin}, but the claim names no arm known to be worse, so the study cannot show that it sees differences"
            )
        if inside:
            return f"within {margin}, but {listed(missed)}, known to be worse, was not found worse by more than {margin}"
        return f"neither a difference nor a difference below {margin} is shown"

    def _needed(self, sample, inside, level, metric):
        """SeedsNeeded for the word that the fewest seeds decide; None where more seeds are not what is missing."""
        if inside or not sample.testable:
            return None
        word = WORSE if harm(sample.mean, metric) > 0 else BETTER
        sides = (0.0, float("inf")) if sample.mean > 0 else (-float("inf"), 0.0)
        ways = [stats.seeds_to_pass(sample, *sides, word, level / 2)]
        if self.config.known_worse:
            ways.append(stats.seeds_to_pass(sample, *bounds(self.config.margin, metric), SAME, level))
        return min(ways, key=lambda needed: needed.seeds)

    def _margin(self, metric: Metric) -> str:
        return margin_text(self.config.margin, metric)
