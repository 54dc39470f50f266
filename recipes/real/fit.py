"""Fit heads on what `sample.py` has sampled, and write what they say of the test responses.

    python recipes/real/fit.py --model path/to/Qwen2.5-Coder-0.5B-Instruct --samples runs/real/0.5b

Two heads: `plain` is the paper's, `logprobs` reads the log-probabilities of a step's tokens, too. Each takes the layer,
the epoch and the calibration that the validation problems choose. They go to FOLDER/heads, and their scores of the test
responses as compact records to --records, from which `figures.py` computes every figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from compact import write_compact
from sample import BENCHMARK, settings

from reflective.judge.aggregate import aggregate
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge
from reflective.models import save_judge
from reflective.records import Record
from reflective.search import BestOfN
from reflective.shards import Place, Steps, load_features
from reflective.train.head.run import fit_judge, sampling_engine
from reflective.train.progress import print_note
from reflective.train.rollouts import load_records

KINDS = {"plain": False, "logprobs": True}  # a head, and whether it reads log-probabilities


def scored(judge: Judge, records: Sequence[Record], steps: Mapping[str, Steps]) -> list[Record]:
    """The records with a judge's scores, its choice and its confidence."""
    assert isinstance(judge.head, SPRMHead)
    return [_scored(judge, judge.head, record, steps[record.key]) for record in records if record.trajectories]


@torch.no_grad()
def _scored(judge: Judge, head: SPRMHead, record: Record, steps: Steps) -> Record:
    flat: list[float] = head(steps.features, steps.logprobs if head.uses_logprobs else None).tolist()
    trajectories, start = [], 0
    for t, count in zip(record.trajectories, steps.counts, strict=True):
        logits = tuple(flat[start : start + count])
        trajectories.append(replace(t, step_logits=logits, score=aggregate(logits, judge.aggregation)))
        start += count
    return _chosen(judge, replace(record, trajectories=tuple(trajectories)))


def _chosen(judge: Judge, record: Record) -> Record:
    """The record as best of n leaves it."""
    choice = BestOfN().choose(record.trajectories, record.problem)  # type: ignore[arg-type]  # has what it looks at
    best = next((t for t in record.trajectories if t.index == choice.index), None)
    confidence = 0.0
    if best is not None and judge.calibration is not None:
        count = len(record.trajectories)
        known = {"score": best.score, "mean_logprob": best.mean_logprob}
        confidence = judge.calibration.confidence(BestOfN.name, choice.evidence, count, **known) or 0.0
    return replace(
        record,
        strategy=BestOfN.name,
        selected=choice.index,
        answer=choice.answer,
        verdict=best.verdict if best is not None else record.verdict,
        confidence=confidence,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit both heads and score the test responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model that was sampled")
    parser.add_argument("--samples", required=True, metavar="FOLDER", help="what sample.py wrote")
    parser.add_argument("--records", metavar="FOLDER", help="where the compact records go (default: FOLDER/records)")
    parser.add_argument("--dtype", default="int8", help="as with sample.py")
    args = parser.parse_args(arguments)

    samples = Path(args.samples)
    config = replace(settings(args.model, args.samples, args.dtype), provenance={"benchmark": BENCHMARK})
    engine, _ = sampling_engine(config)
    test = load_records(samples / "test") if (samples / "test").is_dir() else []
    for kind, logprobs in KINDS.items():
        print_note(f"head {kind}")
        judge, _ = fit_judge(replace(config, logprob_features=logprobs), engine, samples, print_note)
        save_judge(samples / "heads" / kind, judge)
        if test:
            steps = load_features(samples / "test", Place(judge.config.layer))
            folder = Path(args.records) if args.records else samples / "records"
            write_compact(folder / f"{kind}.jsonl.gz", scored(judge, test, steps))
            print_note(f"{len(test)} test problems: {folder / kind}.jsonl.gz")


if __name__ == "__main__":
    main()
