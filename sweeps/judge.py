"""From the records of a study's runs to the verdicts of its claims, look by look.

A question is judged at a look of the plan (`sweeps.looks`) once all the runs that it needs up to that look have ended;
before the first look it has no word. The first decided word stays, and the study runs no more seeds for it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from arch import registry
from arch.contracts import UNSTABLE, Evidence, Measured, Metric, Verdict
from arch.words import listed, times
from experiments.metrics import is_cost, known
from experiments.record import Failure
from sweeps import comparable
from sweeps.failures import failed_in
from sweeps.looks import levels
from sweeps.record import PlanRecord, StudyRecord

RUN_FAILED = "failed"


@dataclass(frozen=True)
class Question:
    """One question of a claim. arms: those whose runs it needs, the baseline first. held: those of a contrast, which it
    needs at every look, also where an arm has had a final word of its own (as a control).
    """

    claim: str
    subject: str
    arms: tuple[str, ...]
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """What one claim says so far. verdicts: {subject: Verdict}, also of subjects that are no question (controls).

    missing: {subject: which runs are missing before its next look}. look: the number of seeds of its last look; 0 before
    the first, and for a claim on costs, which needs no run.
    """

    claim: Any
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    look: int = 0


def questions(claims, arms):
    """{claim name: [Question]} of resolved claims over the labels of a study's arms."""
    asked = {}
    for name, resolved in claims.items():
        claim = built(resolved)
        if hasattr(claim, "questions"):
            subjects = claim.questions(tuple(arms))
        else:
            first, *others = arms
            subjects = {arm: (first, arm) for arm in others}
        named = getattr(claim.config, "contrasts", {})
        held = {subject: contrast.arms for subject, contrast in named.items()}
        asked[name] = [Question(name, subject, tuple(needed), held.get(subject, ())) for subject, needed in subjects.items()]
    return asked


def alike(claim, question, arms):
    """[(the first arm, the others)]: those of a question's arms that are compared with each other (`Claim.alike`)."""
    groups = claim.alike(tuple(arms)) if hasattr(claim, "alike") else [question.arms]
    kept = [[arm for arm in group if arm in question.arms] for group in groups]
    return [(first, others) for first, *others in filter(None, kept)]


def read_metrics(claim):
    """The names of the metrics that a claim reads."""
    return tuple(claim.metrics()) if hasattr(claim, "metrics") else (claim.config.metric,)


def is_exact(claim):
    """Whether a claim reads costs alone, which are known without a run."""
    return all(map(is_cost, read_metrics(claim)))


def metrics_of(spec):
    """{claim name: the metrics that it reads} of a StudySpec."""
    return {name: read_metrics(built(each)) for name, each in spec.claims.items()}


def counted(claims, arms):
    """How many questions share the error of 5 %: all that are about something measured."""
    asked = questions(claims, arms)
    return sum(len(asked[name]) for name, each in claims.items() if not is_exact(built(each)))


def plan_of(record):
    """The PlanRecord of a study; older records have none and were read once, at all their seeds."""
    return record.plan or PlanRecord(looks=(len(record.seeds),), questions=counted(record.claims, record.arms))


def judge(record: StudyRecord, runs: Mapping) -> dict[str, Ruling]:
    """{claim name: Ruling} of a study. runs: {(arm, seed): RunRecord} with what the study measured of each run.

    Raises DataError for a metric that cannot be judged.
    """
    asked = questions(record.claims, record.arms)
    return {name: _Hearing(record, runs, name, asked[name]).ruling() for name in record.claims}


def undecided_arms(record, rulings):
    """Labels of the arms that still need seeds, in the study's order: those of questions without a final word.

    An arm whose own question is decided gets no more seeds, unless it is what others are compared with. Seeds decide
    nothing about a cost, nor of an arm that has no runs because its search found nothing.
    """
    asked, needed = questions(record.claims, record.arms), set()
    for name, ruling in rulings.items():
        for question in [] if is_exact(ruling.claim) else asked[name]:
            verdict = ruling.verdicts.get(question.subject)
            has_runs = all(record.arms[arm].runs for arm in question.arms)
            if has_runs and (question.subject in ruling.missing or (verdict and not verdict.decided)):
                baseline, *others = question.arms
                needed |= {baseline, *question.held, *(arm for arm in others if not _decided(ruling.verdicts, arm))}
    return [arm for arm in record.arms if arm in needed]


def _decided(verdicts, subject):
    return subject in verdicts and verdicts[subject].decided


def built(resolved):
    """The claim component; built once per content, since a study asks again after every look."""
    # In the order of its keys: which group or comparison is the first may matter.
    return _build(json.dumps(resolved))


@cache
def _build(text):
    return registry.build("claim", json.loads(text))


class _Hearing:
    """The looks of one claim, one after another."""

    def __init__(self, record, runs, name, asked):
        self.record, self.runs, self.name, self.asked = record, runs, name, asked
        self.claim = built(record.claims[name])
        self.names = read_metrics(self.claim)
        self.exact = is_exact(self.claim)
        self.decided: dict[str, Verdict] = {}
        self.last: dict[str, Verdict] = {}

    def ruling(self):
        plan = plan_of(self.record)
        steps = list(zip(plan.looks, levels(plan.looks, plan.questions), levels(plan.looks), strict=True))
        # A study that goes on until it is decided has had only the seeds up to its present look.
        steps = steps[-1:] if self.exact else [step for step in steps if step[0] <= len(self.record.seeds)] or steps[:1]
        look = 0
        missing: dict[str, str] = {}
        for number, level, control in steps:
            open_ones = [each for each in self.asked if each.subject not in (*self.decided, *missing)]
            missing |= {each.subject: text for each in open_ones if (text := self._missing(each, number))}
            ready = [each for each in open_ones if each.subject not in missing]
            if ready:
                look = number
                self._judge(ready, number, level, control)
        return Ruling(self.claim, self.last | self.decided, missing, 0 if self.exact else look)

    def _needed(self, question):
        baseline, *others = question.arms
        own = (question.subject, *question.held)
        return [baseline, *(arm for arm in others if arm in own or arm not in self.decided)]

    def _missing(self, question, number):
        """Which of the runs up to a look have not ended, in words."""
        if self.exact:
            return ""
        needed = self._needed(question)
        open_runs = {arm: [seed for seed in self._seeds(arm, number) if not self._ended(arm, seed)] for arm in needed}
        unmeasured = {arm: sum(self._finished(arm, seed) is not None for seed in seeds) for arm, seeds in open_runs.items()}
        absent = {arm: len(seeds) - unmeasured[arm] for arm, seeds in open_runs.items()}
        texts = []
        if any(absent.values()):
            each = listed(f"{times(count, 'run')} of {arm}" for arm, count in absent.items() if count)
            texts.append(f"{each} missing")
        if any(unmeasured.values()):
            each = listed(f"{times(count, 'run')} of {arm}" for arm, count in unmeasured.items() if count)
            texts.append(f"{each} without {' or '.join(self.names)}")
        return f"its verdict is read at {times(number, 'seed')}; {', '.join(texts)}" if texts else ""

    def _ended(self, arm, seed):
        run = self.runs.get((arm, seed))
        if run is None:
            return False
        if run.status == "finished":
            return all(name in run.metrics for name in self.names if not is_cost(name))
        return _failed(run)

    def _judge(self, ready, number, level, control):
        unstable = self._unstable(number)
        measured = {name: self._measured(name, number, unstable) for name in self.names}
        found = dict(self.claim.judge(Evidence(measured, level, control, dict(self.decided))))
        subjects = {each.subject for each in self.asked}
        for question in ready:
            # A claim of one's own may have nothing to say of an arm.
            if question.subject in found:
                found[question.subject] = self._qualified(question, found[question.subject], number, unstable)
        for subject, verdict in found.items():
            # A control is no question, but what it lost is said too.
            if subject not in subjects and subject not in self.decided and verdict.against in self.record.arms:
                control = Question(self.name, subject, (verdict.against, subject))
                found[subject] = self._qualified(control, verdict, number, unstable)
        waiting = subjects - {each.subject for each in ready}
        self.last |= {subject: verdict for subject, verdict in found.items() if subject not in waiting}
        for subject, verdict in found.items():
            # The baseline has no verdict of its own to stay.
            if subject not in waiting and verdict.decided and (subject in subjects or verdict.against):
                self.decided.setdefault(subject, verdict)

    def _qualified(self, question, verdict, number, unstable):
        """The verdict, unless its runs failed or cannot be compared."""
        if self.exact:
            return verdict
        why = self._obstacle(question, number)
        if why:
            return Verdict(comparable.NOT_COMPARABLE, reason=why, against=verdict.against)
        blamed = [arm for arm in question.arms if arm in unstable]
        if not blamed:
            return verdict
        text = listed(f"{'' if arm == question.subject else f'{arm} '}{unstable[arm]}" for arm in blamed)
        if question.subject in unstable or question.subject not in self.record.arms:
            return replace(verdict, word=UNSTABLE, needed=None, reason=text)
        # What the baseline lost cannot be made up for, and more seeds do not help.
        lost = question.arms[0] in unstable
        return replace(verdict, word=comparable.NOT_COMPARABLE, needed=None, reason=text) if lost else verdict

    def _obstacle(self, question, number):
        """Why the runs of a question cannot be compared, in words; empty if they can."""
        pairs = [(first, arm) for first, others in alike(self.claim, question, self.record.arms) for arm in others]
        for baseline, arm in pairs:
            first, other = self._any(baseline, number), self._any(arm, number)
            if first is None or other is None:
                continue
            whys = [self._incomparable(baseline, first, arm, other, name) for name in self.names if not is_cost(name)]
            if any(whys):
                why = next(filter(None, whys))
                return why if arm == question.subject else f"{arm} {why}"
        return ""

    def _incomparable(self, baseline, first, arm, other, name):
        ours, theirs = self.record.arms[baseline], self.record.arms[arm]
        by = ours.measured_by.get(name)
        if by is None:
            why = comparable.obstacle(first.spec, other.spec, name, self._metric(name))
        else:
            # A run may be older than the study, and its spec may ask for other measurements than the study shows.
            why = comparable.other_tokenizer(first.spec, other.spec, name, self._metric(name))
            why = why or comparable.other_objective(first.spec, other.spec, name, by)
            key = f"{name.partition('/')[0]}.{by}"
            if not why and ours.evaluations.get(key) != theirs.evaluations.get(key):
                why = f"is measured otherwise: its {key} differs"
        return why or ("was measured on other texts" if comparable.texts_differ(first, other, name.partition("/")[0], by) else "")

    def _any(self, arm, number):
        """The record of one finished run of an arm, or None."""
        return next((run for seed in self._seeds(arm, number) if (run := self._finished(arm, seed))), None)

    def _seeds(self, arm, number):
        """The first `number` seeds of an arm."""
        first = self.record.arms[arm].first_seed
        return range(first, first + number)

    def _finished(self, arm, seed):
        run = self.runs.get((arm, seed))
        return run if run is not None and run.status == "finished" else None

    def _unstable(self, number):
        """{arm: `failed in 2 of 5 seeds (why)`} of arms that lost runs which another arm finished.

        Of arms with other seeds, the run in the same place: the third of an arm beside the third of another.
        """
        texts = {}
        arms = dict.fromkeys(arm for each in self.asked for arm in each.arms)
        runs = {arm: [self._finished(arm, seed) for seed in self._seeds(arm, number)] for arm in self.record.arms}
        finished = [place for place in range(number) if any(each[place] for each in runs.values())]
        for arm in arms:
            of = self._seeds(arm, number)
            failed = {of[place]: run for place in finished if (run := self.runs.get((arm, of[place]))) and _failed(run)}
            if failed:
                unsaid = Failure(step=-1, error="Failed", message="its record gives no reason")
                reasons = {seed: run.failure or unsaid for seed, run in failed.items()}
                texts[arm] = failed_in(reasons, self._planned(arm, number))
        return texts

    def _planned(self, arm, number):
        return sum((arm, seed) in self.runs for seed in self._seeds(arm, number)) or number

    def _metric(self, name) -> Metric:
        infos = (run.metric_info[name] for run in self.runs.values() if name in run.metric_info)
        return next(infos, None) or known(name) or Metric()

    def _measured(self, name, number, unstable):
        """The Measured of a metric: the seeds up to a look, without arms that lost runs."""
        if is_cost(name):
            exact = {arm: {0: each.costs[name]} if name in each.costs else {} for arm, each in self.record.arms.items()}
            return Measured(self._metric(name), exact, exact=True)
        values: dict[str, dict[int, float]] = {arm: {} for arm in self.record.arms}
        for arm in self.record.arms:
            for seed in self._seeds(arm, number):
                run = self._finished(arm, seed)
                if run is not None and name in run.metrics and arm not in unstable:
                    values[arm][seed] = run.metrics[name]
        metric = self._metric(name)
        counted = metric.varies == "never" and all(len(set(each.values())) < 2 for each in values.values())
        return Measured(metric, values, exact=counted, first_seeds=self.record.first_seeds)


def _failed(run):
    """Whether a run failed by what it computes. What the machine did to it is no evidence: such a run is run again."""
    return run.status == RUN_FAILED and not (run.failure and run.failure.by_machine)
