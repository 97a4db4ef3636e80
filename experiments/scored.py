"""Rewards of answers, and what a run says of a reward that fails."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

import torch

from arch import blame, registry
from arch.document import node
from experiments.data.exchange import Exchange

SHOWN = 60
LARGEST = torch.finfo(torch.float32).max


class RewardError(ValueError):
    """A reward that raised an error, or gave something else than a finite number."""


def resolved(component: dict[str, Any]) -> dict[str, Any]:
    """A reward inside of another component, with every option. Raises SpecError, which names the option."""
    complete: dict[str, Any] = registry.resolve_component("reward", node(component), ())
    return complete


def rewards(reward: Any, exchanges: Sequence[Exchange], answers: Sequence[str]) -> torch.Tensor:
    """(N,) float32: how good each answer is. Raises RewardError."""
    return torch.tensor([_one(reward, exchange, answer) for exchange, answer in zip(exchanges, answers, strict=True)])


def _one(reward, exchange, answer):
    named = f"{type(reward).__module__}:{type(reward).__name__}"
    about = f"the answer {answer[:SHOWN]!r} to {exchange.prompt[:SHOWN]!r}"
    try:
        value = reward(exchange.prompt, answer, exchange.answer)
    except Exception as error:
        raise RewardError(f"the reward {named} raised {blame.words(error)} for {about} ({blame.place(error)})") from error
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _fits(value):
        raise RewardError(f"the reward {named} gives {reprlib.repr(value)} instead of a finite number for {about}")
    return float(value)


def _fits(value: Any) -> bool:
    """Whether a number is one of float32's, also if it is too large for any float; not a number does not fit."""
    return bool(-LARGEST <= value <= LARGEST)
