"""Let the test modules in this folder import `tiny_specs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
