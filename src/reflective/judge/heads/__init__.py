"""Heads that score steps: one kind a file."""
