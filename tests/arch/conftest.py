"""The test modules here share `tiny_specs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
