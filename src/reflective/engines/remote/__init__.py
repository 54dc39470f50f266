"""The remote engine: trajectories written by servers behind HTTP addresses."""
