"""Every family of reasoning_gym and who grades it: the reviewed table in families.toml. A family that is not in it is
refused by name.

Each scorer of the package was read. It is used where it evaluates nothing (no eval, no exec, no sympy.parse_expr, of
the answer or of the problem) and gives a full score to right answers only. Elsewhere a grader of ours takes its place,
and `why` says what is wrong with the package's; no `why` means that its scorer only compares texts or numbers, which
ours do with less regard to spelling.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_TABLES = tomllib.loads((Path(__file__).parent / "families.toml").read_text(encoding="utf-8"))
REVIEWED_VERSIONS = frozenset(_TABLES["reviewed"]["versions"])
UNREVIEWED = (
    "the scorers of reasoning_gym {version} have not been read yet (known: {known}). Install one of these versions"
)


@dataclass(frozen=True, slots=True)
class Family:
    """`grader` is a kind of ours, "package", or one of `reflective.verify.gym`; `refused` says why there is none.

    An answer in which `forbidden` is found is wrong before the scorer sees it.
    """

    grader: str = ""
    why: str = ""
    refused: str = ""
    forbidden: re.Pattern[str] | None = None


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        **{name: Family(grader) for grader, names in _TABLES["graded"].items() for name in names.split()},
        **{name: Family(grader, why) for name, (grader, why) in _TABLES["instead"].items()},
        **{name: Family("package", forbidden=re.compile(text)) for name, text in _TABLES["forbidden"].items()},
        **{name: Family(refused=why) for name, why in _TABLES["refused"].items()},
    }
)
