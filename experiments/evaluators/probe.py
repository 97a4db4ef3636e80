"""What of a text's label can be read from its vector: a linear probe and the nearest class mean, both in closed form.

Shapes: N texts, E numbers of a vector, C labels.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from arch.contracts import Findings, Given, Metric
from arch.errors import SpecError
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Positive, Spec
from experiments.collection import in_order
from experiments.data.pair import Pair
from experiments.text_vectors import of_parts

SHARE = Metric(better="higher", compare="difference", any_tokenizer=True)


@evaluator
class Probe:
    """The share of texts whose label is right, predicted from frozen vectors; for data whose pairs have labels.

    `probe_accuracy`: by ridge regression on the labels, one-hot (a least-squares classifier); `probe_nearest_mean`: the label
    whose mean vector is nearest. `probe_majority`: what the most frequent label alone gets right.
    """

    class Config(Spec):
        """of: whether queries or documents are classified. fit: what the probe learns from: texts of the train split, or `half`,
        one half of the split that is measured, chosen by the digest of a text; the other half is scored. Where pairs are split
        by what is also their label (the module of a function), only `half` has labels in common.

        rows: texts to learn from, and to score, at most. ridge: strength of the regression, in means of the vectors'
        variances. context: the most tokens of a text, by default `data.context`.
        """

        of: Literal["query", "document"] = "document"
        fit: Literal["train", "half"] = "train"
        rows: Count = 2048
        ridge: Positive = 0.1
        context: Annotated[int, Field(ge=2)] | None = None

    needs = frozenset({"encodes", "pairs"})
    metrics = {
        "probe_accuracy": SHARE,
        "probe_nearest_mean": SHARE,
        "probe_majority": SHARE.model_copy(update={"better": "neither", "varies": "never"}),
    }

    def __init__(self, config: Config):
        self.config = config

    def check(self, dataset: Any, split: str) -> None:
        """Raises SpecError where fewer than two labels are both in what is learned from and in what is scored."""
        fitted, scored = ({pair.label for pair in part.values()} for part in self._texts(dataset, split))
        if len(fitted & scored) < 2:
            learned = "the train split" if self.config.fit == "train" else "its other half"
            hint = "; `half` learns from the same split" if self.config.fit == "train" else ""
            reason = f"{len(fitted & scored)} of the {len(scored):,} labels of the {split} split occur in {learned}"
            raise SpecError(f"{reason}; expected at least 2{hint}", ("fit",))

    def __call__(self, model: Model, dataset: Any, given: Given) -> Findings:
        """The shares, of the scored texts whose label is one of those learned; the table has them label by label."""
        fitted, scored = self._texts(dataset, given.split)
        labels = sorted({pair.label for pair in fitted.values()})
        scored = {text: pair for text, pair in scored.items() if pair.label in labels}
        number = {label: i for i, label in enumerate(labels)}
        fit_N, true_N = (torch.tensor([number[pair.label] for pair in part.values()]) for part in (fitted, scored))
        fit_NE, score_NE = (of_parts(model, dataset, part, self.config.of, given, self.config.context) for part in (fitted, scored))
        counts_C = fit_N.bincount(minlength=len(labels))
        right = {
            "accuracy": ridge(fit_NE, fit_N, self.config.ridge)(score_NE).argmax(1) == true_N,
            "nearest_mean": nearest_mean(fit_NE, fit_N)(score_NE).argmax(1) == true_N,
            "majority": true_N == counts_C.argmax(),
        }
        table = [
            {"label": label, "texts": int(mine_N.sum()), "learned": int(counts_C[i])}
            | {name: float(right[name][mine_N].double().mean()) for name in ("accuracy", "nearest_mean")}
            for i, label in enumerate(labels)
            if bool((mine_N := true_N == i).any())
        ]
        return Findings({f"probe_{name}": float(each.double().mean()) for name, each in right.items()}, table)

    def _texts(self, dataset: Any, split: str) -> tuple[dict[str, Pair], dict[str, Pair]]:
        """({text: a pair with its label} to learn from, those to score), in the order of the digests of the texts."""
        scored = self._labelled(dataset.pairs(split))
        if self.config.fit == "train":
            fitted = {text: pair for text, pair in self._labelled(dataset.pairs("train")).items() if text not in scored}
        else:
            texts = list(scored)
            fitted, scored = ({text: scored[text] for text in texts[start::2]} for start in (0, 1))
        fitted, scored = (dict(list(part.items())[: self.config.rows]) for part in (fitted, scored))
        return fitted, scored

    def _labelled(self, pairs: Sequence[Pair]) -> dict[str, Pair]:
        """{text: the first pair that it is of} of the texts with a label, in the order of their digests."""
        return in_order((pair for pair in pairs if pair.label), self.config.of)


def ridge(fit_NE: Tensor, label_N: Tensor, strength: float) -> Any:
    """A function from vectors to scores (N, C): regression on one-hot labels, with an intercept that is not shrunk.

    (X'X + strength tr(X'X) / E I) W = X'Y, X and Y without their means (Hoerl and Kennard 1970).
    """
    one_hot_NC = torch.nn.functional.one_hot(label_N).to(fit_NE.dtype)
    mean_E, mean_C = fit_NE.mean(0), one_hot_NC.mean(0)
    x_NE = fit_NE - mean_E
    square_EE = x_NE.T @ x_NE
    width = len(square_EE)
    shrunk_EE = square_EE + torch.eye(width, dtype=x_NE.dtype) * (strength * square_EE.trace() / width)
    # The pseudo-inverse: where all vectors are the same, both sides are 0, and so are the weights.
    weight_EC = torch.linalg.pinv(shrunk_EE, hermitian=True) @ (x_NE.T @ (one_hot_NC - mean_C))
    return lambda x_NE: (x_NE - mean_E) @ weight_EC + mean_C


def nearest_mean(fit_NE: Tensor, label_N: Tensor) -> Any:
    """A function from vectors to scores (N, C): minus half the squared distance from the mean of a label, up to a constant."""
    one_hot_NC = torch.nn.functional.one_hot(label_N).to(fit_NE.dtype)
    mean_CE = (one_hot_NC.T @ fit_NE) / one_hot_NC.sum(0)[:, None]
    return lambda x_NE: x_NE @ mean_CE.T - mean_CE.square().sum(1) / 2
