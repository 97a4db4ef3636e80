"""Runs in a queue that other code, or another folder of runs, has begun: does anybody still work on them?"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeps.leases import Watch
from sweeps.queue_rows import INTERRUPTED

if TYPE_CHECKING:
    from sweeps.shared_queue import SharedQueue


def cleared(queue: "SharedQueue", is_blocked: Callable[[], bool], sleep: Callable[[float], None] = time.sleep) -> bool:
    """Whether a queue is free of runs that others have begun or queued. Watches it for a lease; ends what nobody beats for.

    is_blocked: whether the queue still belongs to others; asked at each look, because somebody else may have cleared it.
    Returns False once something has changed: they are at work. What is ended counts as no loss: its driver was of other code.
    """
    watch, first, changed = Watch(longest=2 * queue.terms.beat), None, False
    while True:
        live = {row.number: row for row in queue.read() or [] if row.is_live}
        if queue.is_away or not is_blocked():
            return not queue.is_away
        first = live if first is None else first
        before, changed = changed, any(row != first.get(number) for number, row in live.items())
        if before and changed:  # once may be somebody who clears it and has not yet said so
            return False
        ages = watch.ages({number: (row.state, row.beat) for number, row in live.items()})
        if all(age >= queue.terms.lease for age in ages.values()):
            return _end(queue, live)
        if all(age == 0.0 for age in ages.values()):
            lease = queue.terms.lease
            queue.say(
                f"others have left {len(live)} runs in the queue: looking for {lease:g} s whether anybody still works on them"
            )
        sleep(queue.terms.poll)


def _end(queue, live):
    note = f"nobody had worked on it for {queue.terms.lease:g} s when drivers of other code or of another folder came"
    for number, row in live.items():
        if row.state == "RUNNING":
            queue.fail(number, INTERRUPTED, note)
    # Only who takes a waiting trial can end it.
    for _ in [row for row in live.values() if row.state == "WAITING"]:
        taken = queue.take()
        if taken is not None:
            queue.fail(taken.number, INTERRUPTED, note)
    return not queue.is_away
