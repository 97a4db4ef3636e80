"""Who still works: a driver changes the beat of its runs again and again; a watcher sees for how long one did not change.

Clocks of two machines are never compared. A watcher counts on its own monotonic clock, and only time in which it looked.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from arch.errors import SpecError

# A lease of fewer beats would take runs away from drivers that are only slow.
BEATS = 3


class Terms(NamedTuple):
    """The terms of all leases of a queue. beat: seconds between two beats. lease: seconds without a new one after which a
    run is taken away. losses: so many lost attempts end a run.
    """

    beat: float = 20.0
    lease: float = 180.0
    losses: int = 2

    @classmethod
    def of_environment(cls) -> "Terms":
        """The terms for a new queue: $ARCHBENCH_BEAT, $ARCHBENCH_LEASE and $ARCHBENCH_LOSSES, or the defaults.

        Raises SpecError for a value that is no number above zero, and for a lease of fewer than BEATS beats.
        """
        terms = cls(**{name: _read(name, default) for name, default in cls._field_defaults.items()})
        if terms.lease < BEATS * terms.beat:
            reason = f"{terms.lease:g} s; expected at least {BEATS} beats, which are {terms.beat:g} s apart ($ARCHBENCH_BEAT)"
            raise SpecError(reason, file="$ARCHBENCH_LEASE")
        return terms

    @property
    def poll(self) -> float:
        """Seconds between two looks of a driver that has nothing to do."""
        return min(3.0, self.beat / 4)


def _read(name, default):
    variable = f"ARCHBENCH_{name.upper()}"
    text = os.environ.get(variable) or default
    try:
        value = type(default)(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        what = "a whole number of at least 1" if type(default) is int else "seconds above 0"
        raise SpecError(f"expected {what}, not {text!r}", file=f"${variable}")
    return value


class Watch:
    """For how long, in seconds, the beats of others have not changed while this process looked."""

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic):
        """longest: seconds that one gap between two looks counts at most: a watcher that stood still has not watched."""
        self.longest, self.clock = longest, clock
        self.seen: dict[int, tuple[Any, float]] = {}
        self.looked: float | None = None

    def ages(self, beats: Mapping[int, Any]) -> dict[int, float]:
        """{key: age} of the beats as they stand now. Keys that are not there any more are forgotten."""
        now = self.clock()
        passed = 0.0 if self.looked is None else min(now - self.looked, self.longest)
        before, self.seen, self.looked = self.seen, {}, now
        for key, beat in beats.items():
            same = key in before and before[key][0] == beat
            self.seen[key] = (beat, before[key][1] + passed if same else 0.0)
        return {key: age for key, (_, age) in self.seen.items()}

    def forget(self) -> None:
        """Start anew, after an outage: nobody could beat."""
        self.seen, self.looked = {}, None
