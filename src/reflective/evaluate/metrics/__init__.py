"""Metrics in small files; each function takes arrays and gives a value for every problem, undefined ones as NaN."""
