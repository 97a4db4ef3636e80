"""How well a model answers questions about pictures: exactly, and by ANLS.

Shapes: B rows, T tokens, V vocabulary.
"""

from arch.contracts import Dataset, Findings, Given, Metric, Picture
from arch.images.files import png
from arch.model import Model
from arch.registry import evaluator
from arch.spec import Count, Spec
from experiments import prediction, split_rows
from experiments.data.pages import anls

SHOWN = 8  # answers in the text, and pictures


@evaluator
class PictureAnswers:
    """Exact match, and the average normalised Levenshtein similarity of DocVQA (0 for an answer of which half is wrong).

    All digits of an answer are read at once: no place of the answer sees an earlier digit.
    """

    class Config(Spec):
        """rows: how many questions."""

        rows: Count = 256

    needs = frozenset({"causal", "images"})
    reads_images = True
    metrics = {
        "picture_exact": Metric(better="higher", compare="difference"),
        "picture_anls": Metric(better="higher", compare="difference"),
    }

    def __init__(self, config: Config):
        self.config = config

    def __call__(self, model: Model, dataset: Dataset, given: Given) -> Findings:
        """The scores, and the first answers beside the right ones, with their pictures."""
        spelt = dataset.spelt  # type: ignore[attr-defined]  # of a source whose class says `images`
        exact, similar, said, pictures = 0, 0.0, [], []
        for batch in split_rows.read(dataset, given, self.config.rows, None):
            rows = batch["text"]
            assert rows.targets_BT is not None
            hidden_BTD = prediction.hidden(model, rows)
            shown = zip(hidden_BTD, rows.targets_BT, rows.extra["images"], strict=True)
            for hidden_TD, targets_T, images_I3SS in shown:
                asked_T = targets_T >= 0
                best = model.logits(hidden_TD[None, asked_T])[0].argmax(-1).tolist()
                answer, right = spelt(best), spelt(targets_T[asked_T].tolist())
                exact, similar = exact + (answer == right), similar + anls(answer, right)
                said.append(f"{answer or '-'} (right: {right})")
                if len(said) <= SHOWN:
                    pictures.append(Picture(png=png(images_I3SS), text=said[-1]))
        values = {"picture_exact": exact / len(said), "picture_anls": similar / len(said)}
        return Findings(values, text="\n".join(said[:SHOWN]), pictures=pictures)
