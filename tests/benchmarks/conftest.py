"""Scripts of ``benchmarks/`` as modules; they import each other, like scripts of one folder."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
