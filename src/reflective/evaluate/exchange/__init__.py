"""Runs of others read as ours, and ours written as theirs."""

from reflective.evaluate.exchange.exporting import FORMATS, export_run
from reflective.evaluate.exchange.importing import PRESETS, Mapping, import_run

__all__ = ["FORMATS", "PRESETS", "Mapping", "export_run", "import_run"]
