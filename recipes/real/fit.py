"""Fit heads on what `sample.py` has sampled, and write what they say of the test responses.

    python recipes/real/fit.py --model path/to/Qwen2.5-Coder-0.5B-Instruct --samples runs/real/0.5b
    python recipes/real/fit.py --model … --samples runs/real/0.5b-humaneval --folds 5
    python recipes/real/fit.py --model … --samples runs/real/0.5b-math500 --heads runs/real/0.5b/heads
    python recipes/real/fit.py --model … --samples runs/f32 --heads src/reflective/heads/qwen2.5-coder-0.5b-instruct

Two heads: `plain` is the paper's, `logprobs` reads the log-probabilities of a step's tokens, too. Each takes the layer,
the epoch and the calibration that the validation problems choose. They go to FOLDER/heads, and their scores of the test
responses as compact records to --records, from which `figures.py` computes every figure, and those of the validation
responses to --records/validation, for `spend.py`.

With --folds the test problems themselves are cut into parts: each is scored by a head that was fitted on the others,
with one of them for validation. With --heads nothing is fitted: heads of another benchmark are taken as they are, or
one head, such as a shipped one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from compact import write_compact
from safetensors.torch import load_file
from sample import settings

from reflective.cli import exit_code
from reflective.engines.torch import TorchEngine
from reflective.judge.config import CONFIG_FILE, HEAD_FILE, read_config
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.judge.sidecar import head_from_state
from reflective.models import save_judge
from reflective.records import Record
from reflective.search import BestOfN
from reflective.shards import Place, Steps, load_features
from reflective.train.head.config import HeadConfig
from reflective.train.head.layers import candidate_places
from reflective.train.head.run import fit_judge, sampling_engine
from reflective.train.head.schedule import with_scores
from reflective.train.progress import print_note
from reflective.train.rollouts import Rollouts, load_records, load_rollouts

KINDS = {"plain": False, "logprobs": True}  # a head, and whether it reads log-probabilities


def scored(judge: Judge, records: Sequence[Record], steps: Mapping[str, Steps]) -> list[Record]:
    """The records with a judge's scores, its choice and its confidence."""
    assert isinstance(judge.head, SPRMHead)
    return [_scored(judge, judge.head, record, steps[record.key]) for record in records if record.trajectories]


@torch.no_grad()
def _scored(judge: Judge, head: SPRMHead, record: Record, steps: Steps) -> Record:
    flat: list[float] = head(steps.features, steps.logprobs if head.uses_logprobs else None).tolist()
    rest = iter(flat)
    logits = [[next(rest) for _ in range(count)] for count in steps.counts]
    return _chosen(judge, with_scores(record, logits, judge.aggregation))


def _chosen(judge: Judge, record: Record) -> Record:
    """The record as best of n leaves it."""
    choice = BestOfN().choose(record.trajectories, record.problem)  # type: ignore[arg-type]  # has what it looks at
    best = next((t for t in record.trajectories if t.index == choice.index), None)
    confidence = 0.0
    if best is not None and judge.calibration is not None:
        confidence = (
            judge.calibration.confidence(
                BestOfN.name,
                choice.evidence,
                len(record.trajectories),
                score=best.score,
                mean_logprob=best.mean_logprob,
            )
            or 0.0
        )
    return replace(
        record,
        strategy=BestOfN.name,
        selected=choice.index,
        answer=choice.answer,
        verdict=best.verdict if best is not None else record.verdict,
        confidence=confidence,
    )


def _place(judge: Judge) -> Place:
    return Place(judge.config.layer, judge.config.feature_position)


def read(folder: Path) -> Judge:
    """A judge that was saved."""
    config, path = read_config(folder / CONFIG_FILE), folder / HEAD_FILE
    return Judge(config, head_from_state(load_file(str(path)), config, path))


def _heads(folder: Path) -> dict[str, Judge]:
    """Each kind's head in a folder of heads, or the only one, where the folder is one head's."""
    if (folder / CONFIG_FILE).exists():
        judge = read(folder)
        return {next(kind for kind, logprobs in KINDS.items() if logprobs == judge.config.logprob_features): judge}
    return {kind: read(folder / kind) for kind in KINDS}


def of_parts(config: HeadConfig, engine: TorchEngine, samples: Path) -> Judge:
    """A judge from the parts `train` and `validation`."""

    def load(place: Place) -> tuple[Rollouts, Rollouts]:
        return load_rollouts(samples / "train", place), load_rollouts(samples / "validation", place)

    judge, _ = fit_judge(config, engine, load, print_note)
    assert judge.head is not None
    return Judge(judge.config, judge.head.bfloat16().float())  # what is measured is what would be shipped


def cross_fitted(config: HeadConfig, engine: TorchEngine, samples: Path, folds: int) -> list[Record]:
    """The test records, each scored by a judge from other ones."""
    records = load_records(samples / "test")
    places = candidate_places(config, engine.feature_layers)
    steps = {place: load_features(samples / "test", place) for place in places}
    found: list[Record] = []
    for fold in range(folds):
        print_note(f"fold {fold + 1} of {folds}")
        parts: list[list[Record]] = [[], [], []]  # to fit on, to validate on, to score
        for number, record in enumerate(records):
            parts[{fold: 2, (fold + 1) % folds: 1}.get(number % folds, 0)].append(record)
        train, validation, held_out = parts

        def load(
            place: Place, train: Sequence[Record] = train, validation: Sequence[Record] = validation
        ) -> tuple[Rollouts, Rollouts]:
            return Rollouts.of(train, steps[place]), Rollouts.of(validation, steps[place])

        judge, _ = fit_judge(config, engine, load, print_note)
        found += scored(judge, held_out, steps[_place(judge)])
    return found


def _sampled(samples: Path) -> dict[str, int]:
    """How many problems there are to fit on and to validate on, for the head's provenance."""
    parts = {"problems": samples / "train", "validation_problems": samples / "validation"}
    return {name: len(load_records(folder)) for name, folder in parts.items() if folder.is_dir()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit both heads, or take them, and score the test responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model that was sampled")
    parser.add_argument("--samples", required=True, metavar="FOLDER", help="what sample.py wrote")
    parser.add_argument("--records", metavar="FOLDER", help="where the compact records go (default: FOLDER/records)")
    parser.add_argument("--dtype", default="int8", help="as with sample.py")
    parser.add_argument(
        "--position",
        default="before",
        choices=("before", "mean", "auto"),
        help="the state before a step's last token (default: every engine hands it out), the mean over its tokens "
        "(vLLM does not), or what validation prefers",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--folds", type=int, metavar="N", help="fit on the test problems, cut into so many parts")
    how.add_argument(
        "--heads", metavar="FOLDER", help="heads that there are, of this or another benchmark; or one head"
    )
    args = parser.parse_args(arguments)

    samples = Path(args.samples)
    target = Path(args.records) if args.records else samples / "records"
    base = replace(settings(args.model, args.samples, args.dtype), position=args.position, **_sampled(samples))
    engine = None if args.heads else sampling_engine(base)[0]
    given = _heads(Path(args.heads)) if args.heads else {}
    for kind, logprobs in KINDS.items():
        if args.heads and kind not in given:
            continue
        print_note(f"head {kind}")
        config = replace(base, logprob_features=logprobs)
        if args.folds and engine is not None:
            write_compact(target / f"{kind}.jsonl.gz", cross_fitted(config, engine, samples, args.folds))
            continue
        if engine is not None:
            judge = of_parts(config, engine, samples)
            save_judge(samples / "heads" / kind, judge)
        else:
            judge = given[kind]
        for part, place in {"test": target, "validation": target / "validation"}.items():
            if (samples / part).is_dir():
                records = load_records(samples / part)  # before their shards, which are written first
                steps = load_features(samples / part, _place(judge))
                write_compact(place / f"{kind}.jsonl.gz", scored(judge, records, steps))
    print_note(f"records: {target}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
