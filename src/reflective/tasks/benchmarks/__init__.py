"""Benchmarks: problem sets from elsewhere, by name from the Hugging Face hub or from a file of yours."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping

from reflective.settings import check_names
from reflective.tasks.benchmarks.base import Benchmark, Options

__all__ = ["BENCHMARKS", "Benchmark", "Options", "benchmark_name", "get_benchmark"]

_HOMES = {  # name: module, constant
    "aime24": ("aime", "AIME24"),
    "aime25": ("aime", "AIME25"),
    "amc23": ("amc", "AMC23"),
    "math500": ("math500", "MATH500"),
    "gsm8k": ("gsm8k", "GSM8K"),
    "olympiadbench": ("olympiadbench", "OLYMPIADBENCH"),
    "minerva_math": ("minerva", "MINERVA"),
    "gpqa_diamond": ("gpqa", "GPQA_DIAMOND"),
    "ceval": ("ceval", "CEVAL"),
    "livecodebench": ("livecodebench", "LIVECODEBENCH"),
    "humaneval_plus": ("evalplus", "HUMANEVAL_PLUS"),
    "mbpp_plus": ("evalplus", "MBPP_PLUS"),
}
_ALIASES = {
    "aime2024": "aime24",
    "aime2025": "aime25",
    "amc2023": "amc23",
    "minerva": "minerva_math",
    "gpqa": "gpqa_diamond",
    "olympiad": "olympiadbench",
    "humaneval+": "humaneval_plus",
    "mbpp+": "mbpp_plus",
    "lcb": "livecodebench",
}


class _Benchmarks(Mapping[str, Benchmark]):
    """The benchmarks by name; one's module is imported when it is looked up."""

    def __getitem__(self, name: str) -> Benchmark:
        home, constant = _HOMES[name]
        found: Benchmark = getattr(importlib.import_module(f"reflective.tasks.benchmarks.{home}"), constant)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


BENCHMARKS: Mapping[str, Benchmark] = _Benchmarks()


def benchmark_name(name: str) -> str | None:
    """The name as it is known here: "MATH-500" is math500, "AIME 2024" is aime24. None where there is no such one."""
    plain = _plain(name)
    known = {_plain(one): one for one in _HOMES} | {_plain(alias): one for alias, one in _ALIASES.items()}
    return known.get(plain)


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises `InputError` naming the nearest one."""
    known = benchmark_name(name)
    if known is None:
        check_names([name], _HOMES, "benchmark")
    return BENCHMARKS[known or name]
