"""The report of one run or several: one HTML page that needs nothing else, Markdown, and every plot as PNG and CSV.

gather -> figures -> page, Markdown, plots
"""

from reflective.evaluate.report.content import Run, gather, paired_tests
from reflective.evaluate.report.markdown import markdown, text_summary
from reflective.evaluate.report.page import page
from reflective.evaluate.report.plots import write_plots

__all__ = ["Run", "gather", "markdown", "page", "paired_tests", "text_summary", "write_plots"]
