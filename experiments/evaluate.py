"""Quality of a model on a split: the same rows for every arm and every seed."""

import torch


@torch.no_grad()
def evaluate(model, objective, corpus, split, rows, data, device):
    """The objective's metrics over `rows` rows of `split`, named SPLIT/METRIC."""
    sums = {}
    for batch in corpus.evaluation(split, rows, data.context, data.rows):
        _, _, more = objective(model, batch.to(device))
        sums = {key: sums.get(key, 0) + value for key, value in more.items()}
    return {f"{split}/{name}": value for name, value in objective.summarise(sums).items()}
