"""The imports that LiveCodeBench's harness puts before every solution, which may therefore use `List` or `sqrt` bare.

Its starter code does (`def f(self, xs: List[int])`), so that most right solutions of its problems import nothing. The
block stands before programs of the modes "stdin" and "call", which are LiveCodeBench's; EvalPlus has none.
"""

from __future__ import annotations

import re

_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
).split()
BLOCK = "\n".join(
    [
        *(f"from {module} import *" for module in (*_MODULES, "builtins", "typing")),
        *(f"import {module}" for module in _MODULES),
        "sys.setrecursionlimit(50000)",
    ]
)
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


def with_imports(program: str) -> str:
    """`program` behind the block; what it imports from the future stays first, where Python wants it."""
    future = "".join(line if line.endswith("\n") else line + "\n" for line in _FUTURE.findall(program))
    return f"{future}{BLOCK}\n\n{_FUTURE.sub('', program)}"
