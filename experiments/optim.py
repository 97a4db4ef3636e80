"""AdamW with weight decay by kind of parameter, and the learning rate as a pure function of the step."""

import math

import torch

DECAYED = ("embedding", "matrix")
# Devices on which torch has a fused AdamW, one operation per tensor; elsewhere it runs several operations.
FUSED = ("cpu", "cuda", "mps", "xpu")


def build_optimizer(module, spec):
    """AdamW over two groups: with weight decay (matrices, embeddings) and without (norms, biases, all of a recurrence).

    A parameter without a kind, in a user's component, is decayed if it has two or more dimensions.
    """
    decayed, plain = [], []
    for weight in module.parameters():
        if weight.requires_grad:
            kind = getattr(weight, "kind", "matrix" if weight.ndim >= 2 else "vector")
            (decayed if kind in DECAYED and not getattr(weight, "recurrent", False) else plain).append(weight)
    fused = all(weight.device.type in FUSED for weight in (*decayed, *plain))
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=fused
    )


def learning_rate(step, steps, peak, schedule):
    """The learning rate at optimizer step `step` (from 0) of `steps`, for a peak rate and a ScheduleSpec.

    Linear warm-up, then cosine decay, or a constant rate followed by linear decay (`wsd`).
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.type == "cosine":
        done = (step - warmup) / max(1, steps - 1 - warmup)
        return peak * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * done)))
    decay = max(1, round(schedule.decay * steps))
    left = min(1.0, (steps - 1 - step) / decay)
    return peak * (schedule.final + (1 - schedule.final) * left)
