"""Settings from plain values and TOML, and names that are checked against the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from reflective.errors import CheckpointError, InputError, first_line
from reflective.settings import (
    at_least,
    check_names,
    check_seed,
    did_you_mean,
    make_settings,
    read_settings,
    settings_digest,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    layer: int | Literal["auto"] = "auto"
    count: int | None = None
    fast: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count is not None:
            at_least(self, 1, "count")


def test_tables_become_settings_and_lists_tuples() -> None:
    made = make_settings(Outer, {"name": "x", "inner": {"rate": 1, "sizes": [1, 2]}, "layer": -2, "fields": {"a": "b"}})
    assert made == Outer("x", Inner(1.0, (1, 2)), -2, fields={"a": "b"})
    assert isinstance(made.inner.rate, float)
    assert make_settings(Outer, {"name": "x", "layer": "auto", "count": None}) == Outer("x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nam": "x"}, r"unknown setting 'nam'. Did you mean 'name'\? Known: name, inner"),
        ({"inner": {"rat": 1}}, "unknown setting 'inner.rat'. Did you mean 'inner.rate'"),
        ({"name": 3}, "name must be str, got 3"),
        ({"inner": 3}, "inner must be a table of settings, got 3"),
        ({"inner": {"rate": True}}, "inner.rate must be float, got True"),
        ({"inner": {"rate": 10**400}}, "inner.rate is too large"),
        ({"inner": {"sizes": 3}}, "inner.sizes must be tuple"),
        ({"inner": {"sizes": [1, "2"]}}, "inner.sizes must be int, got '2'"),
        ({"layer": "last"}, "layer must be int, got 'last'"),
        ({"count": True}, "count must be int, got True"),
        ({"count": 0}, "count is 0; it must be 1 or more"),
        ({"fields": {"a": 1}}, "fields.a must be str, got 1"),
    ],
)
def test_what_can_not_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_settings(Outer, {"name": "x"} | changes)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(InputError, match="the setting 'name' is missing"):
        make_settings(Outer, {})


def test_a_file_is_read_and_overridden(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('name = "x"\ncount = 3\n[inner]\nrate = 2\n')
    assert read_settings(Outer, path, count=4, fast=None) == Outer("x", Inner(2.0), count=4)
    for content in (b"name = ", b"name = '\xff'", b"x = " + b"[" * 5000):
        path.write_bytes(content)
        with pytest.raises(InputError, match="can't read the settings in '.*settings.toml'"):
            read_settings(Outer, path)
    with pytest.raises(InputError, match="No such file"):
        read_settings(Outer, tmp_path / "none.toml")


@pytest.mark.parametrize("value", [float("nan"), -1, 0.5, "3", [3]])
def test_nothing_below_the_least_passes(value: Any) -> None:
    with pytest.raises(InputError, match="it must be 1 or more"):
        at_least(Inner(value), 1, "rate")


def test_the_digest_is_of_what_is_not_free() -> None:
    first = settings_digest(Outer("x"), ["name"], "data")
    assert first == settings_digest(Outer("y"), ["name"], "data")
    assert first != settings_digest(Outer("x", count=1), ["name"], "data")
    assert first != settings_digest(Outer("x"), ["name"], "others")


def test_the_nearest_known_name_is_offered() -> None:
    known = ["effort", "strategy"]
    assert did_you_mean("efort", known) == " Did you mean 'effort'?"
    assert did_you_mean("zzz", known) == did_you_mean("x", []) == did_you_mean(3, known) == ""
    check_names(["effort"], known, "option")
    told = r"^unknown option 'efort'\. Did you mean 'effort'\? Known: effort, strategy\.$"
    with pytest.raises(CheckpointError, match=told):
        check_names(["effort", "efort"], known, "option", CheckpointError)
    many = [f"name{i}" for i in range(41)]
    with pytest.raises(InputError, match=r"^unknown option 'nme3'\. Did you mean 'name3'\?$"):
        check_names(["nme3"], many, "option")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed is {seed}; it "):
        check_seed(seed)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("Broken.\nand more"), "Broken"),
        (ValueError("Invalid field:\n  it is no number.\nand more"), "Invalid field: it is no number"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_in_one_line_has_no_full_stop_of_its_own(error: Exception, line: str) -> None:
    assert first_line(error) == line
