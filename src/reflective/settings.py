"""Settings as frozen dataclasses, from TOML or plain values, and names that are checked against the known ones.

An unknown name is refused with the nearest known one, and a value of another type before anything runs. What a value
may be beyond its type, a settings class checks in `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from reflective.errors import InputError, ReflectiveError, first_line

Settings = TypeVar("Settings")

MAX_SEED: Final = 2**32 - 1  # numpy's
LISTED: Final = 40  # of more known names than these an error lists none


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ " Did you mean 'effort'?", or nothing where no known name is near."""
    import difflib

    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_names(
    names: Iterable[object], known: Collection[str], what: str, error: type[ReflectiveError] = InputError
) -> None:
    """Raise `error` for the first name that is none of the known ones; `what` says what they name."""
    for name in names:
        if name not in known:
            listed = f" Known: {', '.join(known)}." if len(known) <= LISTED else ""
            raise error(f"unknown {what} {name!r:.60}.{did_you_mean(name, known)}{listed}")


def read_settings(kind: type[Settings], path: str | Path, **overrides: Any) -> Settings:
    """The settings in a TOML file; `overrides` replace its top-level keys (None: leave as it is)."""
    table = read_toml(Path(path), "the settings")
    return make_settings(kind, table | {key: value for key, value in overrides.items() if value is not None})


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a TOML file holds; `what` says in an error what it should be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"can't read {what} in {str(path)!r}: {first_line(error)}.") from error


def make_settings(kind: type[Settings], table: Mapping[str, Any], where: str = "") -> Settings:
    """Frozen settings from plain values, tables becoming settings and lists tuples."""
    hints = typing.get_type_hints(kind)
    check_names((where + key for key in table), [where + name for name in hints], "setting")
    values = {key: _value(hints[key], value, where + key) for key, value in table.items()}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"the setting {where + f.name!r} is missing.")
    return kind(**values)


def checked_arguments(kind: type[Any], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Keyword arguments for `kind`, checked against what its `__init__` takes; `what` says what they name.

    Texts, as a command line gives them, are read as JSON where the argument is not text itself, a tuple also without
    its brackets.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(kind.__init__).items() if name != "return"}
    check_names(values, hints, what)
    return {name: _value(hints[name], _read(hints[name], value), f"{what} {name}") for name, value in values.items()}


def _read(hint: Any, value: Any) -> Any:
    if isinstance(value, str) and hint is not str and typing.get_origin(hint) is not Literal:
        bare = typing.get_origin(hint) is tuple and not value.startswith("[")
        with suppress(ValueError):
            return json.loads(f"[{value}]" if bare else value)
    return value


def at_least(settings: Any, least: float, *names: str) -> None:
    """`check_least` for settings by their names."""
    check_least(least, **{name: getattr(settings, name) for name in names})


def check_least(least: float, **values: Any) -> None:
    """Refuse the first value that is no number, is NaN or below `least`; None is one that is not given."""
    for name, value in values.items():
        number: Any = value if isinstance(value, Real) else math.nan
        if value is not None and not number >= least:
            raise InputError(f"{name} is {value!r}; it must be {least:g} or more.")


def check_seed(seed: int) -> None:
    """Refuse a seed that torch or numpy does not take."""
    check_least(0, seed=seed)
    if seed > MAX_SEED:
        raise InputError(f"seed is {seed}; it can be at most {MAX_SEED}.")


def settings_digest(settings: Any, free: Sequence[str], data: str) -> str:
    """A hash of all settings but those that are `free` to change when a run goes on; `data` stands for its examples."""
    values = {key: value for key, value in dataclasses.asdict(settings).items() if key not in free} | {"data": data}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` names, or an error that says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table of settings, got {value!r}.")
        return make_settings(hint, value, f"{where}.")
    if origin is Literal:
        if value in arguments:
            return value
        raise InputError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}.")
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(arguments[0], item, where) for item in value)
    if origin is not None and isinstance(value, origin):
        if arguments[1:] and arguments[1] is not Any and isinstance(value, Mapping):
            return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InputError(f"{where} is too large for a number.") from error
    if origin is None and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise InputError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}.")


def _one_of(hints: Sequence[Any], value: Any, where: str) -> Any:
    """`value` as the first of several types that it is; where it is none, what the first one expected."""
    if value is None and type(None) in hints:
        return None
    errors = []
    for hint in hints:
        if hint is not type(None):
            try:
                return _value(hint, value, where)
            except InputError as error:
                errors.append(error)
    raise errors[0]
