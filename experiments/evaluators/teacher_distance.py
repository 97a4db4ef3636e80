"""How far a student is from its teacher on a split."""

from arch.contracts import Dataset, Findings, Given, Metric
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import split_rows


@evaluator
class TeacherDistance:
    """KL(teacher || student) and how often both find the same token the most likely, of the whole distributions.

    At temperature 1, whatever the student was trained on. For runs whose objective has a teacher.
    """

    class Config(Spec):
        """rows: how many of the split; all if it has fewer."""

        rows: Count = 64

    needs = frozenset({"causal", "teacher"})
    metrics = {
        "teacher_kl": Metric(unit="nats per token"),
        "teacher_agreement": Metric(better="higher"),
    }

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """Both numbers, over all positions with a target."""
        sums, weight = {"kl": 0.0, "agreement": 0.0}, 0.0
        for batch in split_rows.read(dataset, given, self.config.rows, None):
            distances = given.objective.distances(model, batch)
            for name in sums:
                sums[name] += float(distances[name].sum)
            weight += float(distances["kl"].weight)
        return Findings({f"teacher_{name}": total / weight for name, total in sums.items()} if weight else {})
