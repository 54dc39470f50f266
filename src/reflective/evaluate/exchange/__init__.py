"""Runs of others read as ours, and ours written as theirs."""

from reflective.evaluate.exchange.exporting import FORMATS, export_run
from reflective.evaluate.exchange.importing import PRESETS, Fields, import_run

__all__ = ["FORMATS", "PRESETS", "Fields", "export_run", "import_run"]
