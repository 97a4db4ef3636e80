"""Weight decay: which parameters it reaches, as parameter groups of a torch optimizer."""


def decays(weight):
    """Whether weight decay applies: to embeddings and matrices, not to norms, biases or any parameter of a recurrence.

    A parameter of a user's component that does not say what it is counts as a matrix if it has two or more dimensions.
    """
    kind = getattr(weight, "kind", "matrix" if weight.ndim >= 2 else "vector")
    return kind in ("embedding", "matrix") and not getattr(weight, "recurrent", False)


def groups(parameters, weight_decay):
    """The parameter groups of the named parameters that are trained, decayed ones first; no group is empty."""
    trained = [weight for _, weight in parameters if weight.requires_grad]
    parts = [
        {"params": [weight for weight in trained if decays(weight)], "weight_decay": weight_decay},
        {"params": [weight for weight in trained if not decays(weight)], "weight_decay": 0.0},
    ]
    return [part for part in parts if part["params"]]
