"""Quality of a model on a split, measured on the same rows for every arm and every seed."""

from contextlib import contextmanager

import torch


@contextmanager
def evaluating(*modules):
    """Context manager: modules in evaluation mode, no gradients, compiled blocks run eager.

    On leaving, every module returns to its previous mode.
    """
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def evaluate(model, objective, corpus, split, rows, data, device):
    """The objective's metrics over `rows` rows of `split`, named SPLIT/METRIC."""
    sums = {}
    with evaluating(model, objective):
        for batch in corpus.evaluation(split, rows, data.context, data.rows):
            _, _, more = objective(model, batch.to(device))
            sums = {key: sums.get(key, 0) + value for key, value in more.items()}
    return {f"{split}/{name}": value for name, value in objective.summarise(sums).items()}
