"""Which version of the code runs."""

import hashlib
import subprocess
from functools import lru_cache
from typing import Any

from arch.document import ROOT

PACKAGES = ("arch", "experiments", "sweeps")
SUFFIXES = (".py", ".c", ".h")


def code_version() -> dict[str, Any]:
    """{commit, dirty} if the code is a git checkout with a commit, else {}."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))} if commit else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}


# Read once, when this process loads the code: the checkout may change while a long-lived worker still runs old code.
CODE = code_version()


@lru_cache
def sources() -> str:
    """A digest of the sources that compute: two drivers of one study need the same, also where git does not know them."""
    content = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted(path for path in (ROOT / package).rglob("*") if path.suffix in SUFFIXES):
            content.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]
