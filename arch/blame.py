"""Whose code raised an error: the last line of a user's own that ran, and the error in one line. No torch here."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from arch.document import ROOT

# Code that is not the user's: Python, what is installed, this project.
LIBRARIES = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
OURS = tuple(str(ROOT / name) for name in ("arch", "experiments", "sweeps", "analysis", "archbench.py"))


def is_own(file: str) -> bool:
    """Whether a file of code is a user's own, as a plug-in is."""
    if file.startswith("<") or "site-packages" in file or "dist-packages" in file:
        return False
    return not str(Path(file).resolve()).startswith((*LIBRARIES, *OURS))


def own_place(error: BaseException) -> str:
    """`FILE:LINE` of the last line of a user's own code that ran before the error was raised; empty if none did."""
    if isinstance(error, SyntaxError) and error.filename and is_own(error.filename):
        return _shown(error.filename, error.lineno)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return _shown(frames[-1].filename, frames[-1].lineno) if frames else ""


def place(error: BaseException) -> str:
    """`own_place`, or the last line at all that ran."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return own_place(error) or (_shown(last[0].filename, last[0].lineno) if last else "")


def forward(component: type, name: str = "forward") -> str:
    """`FILE:LINE` of a method of a user's own component; empty for a shipped one, or where there is none to see."""
    code = getattr(getattr(component, name, None), "__code__", None)
    return _shown(code.co_filename, code.co_firstlineno) if code and is_own(code.co_filename) else ""


def gives(component: object, method: str, value: object, promised: str) -> str:
    """What to say of a component whose method gives something else than it promised, with the method's place."""
    kind = type(component)
    where = forward(kind, method)
    return f"{kind.__module__}:{kind.__name__} gives {type(value).__name__} instead of {promised}{where and f' ({where})'}"


def _shown(file, line):
    """A line of code, below the working folder as a relative path."""
    path, here = Path(file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def words(error: BaseException) -> str:
    """An error in one line: `ValueError (the text of its first line)`; of `sys.exit`, that it was called."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__} ({first})" if first else type(error).__name__
