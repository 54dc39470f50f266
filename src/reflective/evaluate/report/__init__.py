"""The report of one run or several: one HTML page that needs nothing else, Markdown, and every plot as PNG and CSV.

read_runs -> figures -> page, Markdown, plots
"""

from reflective.evaluate.report.content import Run, paired_tests, read_runs
from reflective.evaluate.report.markdown import markdown, text_summary
from reflective.evaluate.report.page import page
from reflective.evaluate.report.plots import write_plots

__all__ = ["Run", "markdown", "page", "paired_tests", "read_runs", "text_summary", "write_plots"]
