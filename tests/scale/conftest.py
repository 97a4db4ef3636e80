"""The files of the chaos test import each other by name, as they do when it is started as a program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
