"""Examines the paper's claims again, from the shipped recipe to a page of tables and plots, all from records.

    python recipes/reproduce/reproduce.py                              # hours on two cores: docs/results.md
    python recipes/reproduce/reproduce.py --settings quick.toml        # in miniature, minutes: runs/reproduce-quick
    python recipes/reproduce/reproduce.py --only 1 5 --model runs/nano/model
    python recipes/reproduce/reproduce.py --write                      # the page again, from the records that are there

Stopped and started again it goes on where it was; what is recorded is not made again. Each study is a module here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import aha
import efforts
import joint
import losses
import reading
import scaling
import separate
import transfer
from lab import SHARED, SPLITS, Lab, is_done, made_on, seconds_of, study_settings
from settings import Settings, read_settings
from writing import write_page

from reflective.errors import InputError, ReflectiveError
from reflective.tasks.base import Split
from reflective.train.progress import Note, print_note

HERE = Path(__file__).resolve().parent
STUDIES: Sequence[Any] = (efforts, losses, separate, aha, transfer, scaling, joint, reading)  # in the order of the page
FOUND = "figures.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, default=HERE / "full.toml", help="a TOML file, here or anywhere")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="N", help="these studies, 1 to 8, in this order (default: all)"
    )
    parser.add_argument("--model", help="nano, a folder or a hub id (default: as the settings say)")
    parser.add_argument("--output", help="where the records lie (default: as the settings say)")
    parser.add_argument("--results", help="the page to write (default: as the settings say)")
    parser.add_argument("--write", action="store_true", help="make no records, only figures and page")
    args = parser.parse_args(arguments)
    path = args.settings if args.settings.exists() or args.settings.parent != Path() else HERE / args.settings
    try:
        settings = read_settings(path, model=args.model, output=args.output, results=args.results)
        numbers = _numbers(args.only)
        if not args.write:
            collect(settings, numbers, print_note)
        write(settings, command_of(path), print_note)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except ReflectiveError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _numbers(only: Sequence[int] | None) -> list[int]:
    wrong = [n for n in only or () if not 1 <= n <= len(STUDIES)]
    if wrong:
        raise InputError(f"--only {wrong[0]}: studies have the numbers 1 to {len(STUDIES)}.")
    return list(dict.fromkeys(only or range(1, len(STUDIES) + 1)))


def collect(settings: Settings, numbers: Sequence[int], note: Note) -> None:
    """The records of these studies; those that are done are left alone."""
    root = Path(settings.output)
    lab = Lab(settings, root, note)
    studies = [(number, STUDIES[number - 1]) for number in numbers]
    for split in SPLITS:
        if any(split in study.NEEDS for _, study in studies):
            _let(lab, f"{SHARED}/{split}", partial(_share, lab, split))
    for number, study in studies:
        note(f"study {number}: {study.TITLE}")
        _let(lab, study.NAME, partial(study.collect, lab))


def _share(lab: Lab, split: Split, folder: Path) -> None:
    lab.steps(split)


def _let(lab: Lab, name: str, make: Callable[[Path], None]) -> None:
    """Make what is not there, in a folder that holds nothing of other settings."""
    if is_done(lab.root, name):
        lab.claim(name)
        return
    with lab.sitting(name) as folder:
        make(folder)


def write(settings: Settings, command: str, note: Note) -> dict[str, Any]:
    """Figures of every study that is done, as JSON in the output folder, and the page."""
    root = Path(settings.output)
    done = [(n, study) for n, study in enumerate(STUDIES, 1) if is_done(root, study.NAME)]
    made_with = [study_settings(root, study.NAME) for _, study in done]
    if not done:
        raise InputError(f"no study is complete in '{root}'. Run without --write, or name another --output.")
    if len({about["weights"] for about in made_with}) > 1:
        raise InputError(f"the studies in '{root}' are of different models. Remove those that are out of date.")
    about = made_with[0]
    found = {
        "run": {
            "command": command,
            "model": about["model"],
            "weights": about["weights"],
            "seeds": sorted({seed for about in made_with for seed in about.get("seeds", ())}),
            "remark": settings.remarks.get(about["model"], ""),
            "seconds": {SHARED: sum(seconds_of(root, f"{SHARED}/{split}") for split in SPLITS)},
            "missing": [f"{n}. {s.TITLE}" for n, s in enumerate(STUDIES, 1) if (n, s) not in done],
            "hardware": made_on(root, [*(f"{SHARED}/{split}" for split in SPLITS), *(study.NAME for _, study in done)]),
        },
        "studies": [_entry(root, number, study) for number, study in done],
    }
    (root / FOUND).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(Path(settings.results), found)
    note(f"written: {settings.results}")
    return found


def _entry(root: Path, number: int, study: ModuleType) -> dict[str, Any]:
    return {
        "number": number,
        "name": study.NAME,
        "title": study.TITLE,
        "question": study.QUESTION,
        "seconds": seconds_of(root, study.NAME),
        "sources": f"{root / study.NAME}",
        "findings": study.figures(root).to_json(),
    }


def command_of(path: Path) -> str:
    """How to come by this page."""
    return {"full.toml": "make reproduce", "quick.toml": "make reproduce-quick"}.get(
        path.name, f"python recipes/reproduce/reproduce.py --settings {path.name}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
