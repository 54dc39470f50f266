"""The recipes are scripts beside each other, no package: their folder is put where Python looks."""

import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path[:0] = [str(RECIPES / "reproduce"), str(RECIPES / "real")]
