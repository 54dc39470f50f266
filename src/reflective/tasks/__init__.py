"""Problem sets: generated families, benchmarks from elsewhere, and files.

`load_problems(name)` gives the problems of any of them. `get_task(name)` gives one family, `mixture` interleaves
several; `get_benchmark(name)` gives one benchmark, from the hub or from a file.
"""

from reflective.tasks.base import Segment, Split, Task, Trace
from reflective.tasks.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from reflective.tasks.families import TASKS, get_task, mixture
from reflective.tasks.sources import load_problems, prompt_like

__all__ = [
    "BENCHMARKS",
    "TASKS",
    "Benchmark",
    "Segment",
    "Split",
    "Task",
    "Trace",
    "get_benchmark",
    "get_task",
    "load_problems",
    "mixture",
    "prompt_like",
]
