"""Ctrl-C from the first moment on, also while libraries are imported: one line and exit code 130.

Entry points import this module first; it acts only where the process is a command of ours. An exception does not do it: code
that is being imported may catch a KeyboardInterrupt and go on, as torch does, or fail in another way because of it. So a
process in which an import is under way ends at once: it holds nothing that must be saved. Elsewhere KeyboardInterrupt is raised.
"""

import os
import signal
import sys
from contextlib import suppress
from types import SimpleNamespace

# message: what is said. running: whether `arch.cli.main` runs a command, and so catches KeyboardInterrupt. asked: whether a signal
# came: an error that follows is its doing.
state = SimpleNamespace(message="interrupted", running=False, asked=False)
FOLDERS = ("arch", "experiments", "sweeps", "analysis")
SHOW_CURSOR = b"\x1b[?25h"


def interrupted(number, frame):
    """The handler of SIGINT and SIGTERM."""
    state.asked = True
    if not state.running or _importing(frame):
        _leave()
    raise KeyboardInterrupt


def _importing(frame):
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load" and "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _leave():
    """End the process. A child process says nothing: its parent does."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError, ValueError):  # RuntimeError: the signal came while this stream was written
            stream.flush()
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + f"{state.message}\n".encode())
    os._exit(130)


def _is_command():
    """Whether this process is `archbench` or `python -m PACKAGE`, and not one that only imports them."""
    folder, name = os.path.split(sys.argv[0] if sys.argv else "")
    return os.path.splitext(name)[0] == "archbench" or (name == "__main__.py" and os.path.basename(folder) in FOLDERS)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, interrupted)
