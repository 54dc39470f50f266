"""The recipes are scripts beside each other, no package: their folder is put where Python looks."""

import sys
from pathlib import Path

REPRODUCE = Path(__file__).resolve().parents[2] / "recipes" / "reproduce"
sys.path.insert(0, str(REPRODUCE))
