"""What it takes to serve: replicas, queueing delay, and what an answer costs.

rates      how fast a replica writes: measured, or assumed from a model's shape and a GPU's data sheet
simulate   requests that arrive, wait and are written by continuously batching replicas
measure    the rates of an engine that is here
outcome    the plan: as many replicas as a target needs, and what comes of them
"""
