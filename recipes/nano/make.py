"""Makes the model that ships as `nano`, from nothing: tokenizer, data, supervised training, a first head, joint
training, the head that ships with its calibration.

    python recipes/nano/make.py     # all of it, about two hours on two cores
    python recipes/nano/make.py --output runs/try --max-minutes 5 --joint-steps 2 --problems 100    # to try the recipe

What is there already is not made again: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from reflective.errors import ReflectiveError
from reflective.judge.sidecar import has_head
from reflective.settings import read_settings
from reflective.tasks.families import drills
from reflective.train.head.config import HeadConfig
from reflective.train.head.run import train_head
from reflective.train.joint.config import JointConfig
from reflective.train.joint.run import train_joint
from reflective.train.sft.config import SFTConfig
from reflective.train.sft.run import train_sft
from reflective.train.sft.samples import task_samples
from reflective.train.sft.tokenizer import build_tokenizer, save_tokenizer

HERE = Path(__file__).parent
JOINT = HERE / "joint.toml"
VOCABULARY = 1024
TEXTS = 20_000  # problems and traces that the tokenizer is learnt from
FIRST_PROBLEMS = 1500  # that the head learns from before joint training
PROBLEMS = 4000  # and after it
VALIDATION_PROBLEMS = 300
INTERRUPTED = 130  # as shells have it after Ctrl-C


def main() -> int:
    """Runs the recipe; the exit code is that of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "sft.toml")
    parser.add_argument("--output", help="where the run goes (default: as the configuration says)")
    parser.add_argument("--max-minutes", type=float, help="of training (default: as the configuration says)")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--joint-steps", type=int, help="of joint training (default: as joint.toml says)")
    parser.add_argument("--problems", type=int, default=PROBLEMS, help="that the last head learns from")
    arguments = parser.parse_args()
    try:
        config = read_settings(
            SFTConfig,
            arguments.config,
            output=arguments.output,
            max_minutes=arguments.max_minutes,
            max_tokens=arguments.max_tokens,
        )
        run = Path(config.output)
        make_tokenizer(config)
        supervised = train_sft(config)
        if supervised.interrupted:
            return supervised.exit_code
        if not make_head(config, supervised.folder, run / "rollouts", min(FIRST_PROBLEMS, arguments.problems)):
            return INTERRUPTED
        if not is_made(last := run / "joint" / "rollouts"):
            joint = train_joint(
                read_settings(
                    JointConfig,
                    JOINT,
                    model=str(supervised.folder),
                    output=str(run / "joint"),
                    steps=arguments.joint_steps,
                )
            )
            if joint.interrupted:
                return joint.exit_code
        if not make_head(config, run / "joint" / "model", last, arguments.problems):
            return INTERRUPTED
    except ReflectiveError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"made: {run / 'joint' / 'model'}", file=sys.stderr)
    return 0


def make_tokenizer(config: SFTConfig) -> None:
    """The tokenizer, from problems and traces of the training split, every family alike."""
    if config.tokenizer is None or (Path(config.tokenizer) / "tokenizer.json").exists():
        return
    print("tokenizer: writing problems and traces to learn it from", file=sys.stderr)
    save_tokenizer(build_tokenizer(_texts(config), VOCABULARY), Path(config.tokenizer))


def _texts(config: SFTConfig) -> Iterator[str]:
    families = sorted(config.data.families)
    for family in families:
        for sample in task_samples(family, "train", TEXTS // len(families), config.data.levels, config.data.seed):
            yield sample.messages[0]["content"]
            yield "".join(segment.text for segment in sample.segments)


def is_made(work: Path) -> bool:
    """Whether a head was fitted on these rollouts; one that lies beside the weights may be joint training's."""
    return (work / "fitted").exists()


def make_head(config: SFTConfig, model: Path, work: Path, problems: int) -> bool:
    """The score head, fitted and calibrated on what the model samples, into `sprm/` beside the weights; False where
    Ctrl-C came before."""
    if is_made(work) and has_head(model):
        return True
    result = train_head(
        HeadConfig(
            look=False,
            model=str(model),
            tasks=tuple(name for name in sorted(config.data.families) if name != drills.NAME),
            levels=config.data.levels,
            problems=problems,
            validation_problems=VALIDATION_PROBLEMS,
            max_tokens=400,
            filter="none",  # on a frozen model of this size the SPR filter selects worse (LOG.md)
            logprob_features=True,
            start="random",  # as the published figures
            seed=config.seed,
            work=str(work),
        )
    )
    if not result.interrupted:
        (work / "fitted").touch()
    return not result.interrupted


if __name__ == "__main__":
    sys.exit(main())
