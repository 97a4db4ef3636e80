"""What Ctrl-C and SIGTERM do to a single run: an answer at once, then a checkpoint if there is something to save."""

import os
from collections.abc import Callable
from typing import Any

SAVES = "stopping: the run saves a checkpoint; press Ctrl-C again to end it at once"


class Stopping:
    """A handler of signals. `asked` is how often it was called, which the run looks at after every step.

    The second signal raises KeyboardInterrupt where the run is, and so does the first where nothing is trained yet.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.begun: Callable[[], bool] = lambda: False  # whether there is something to save

    def __call__(self, number: int, frame: Any) -> None:
        """The signal's handler."""
        self.asked += 1
        ends = self.asked > 1 or not self.begun()
        os.write(2, f"{'stopping ...' if ends else SAVES}\n".encode())  # print may be what was interrupted
        if ends:
            raise KeyboardInterrupt
