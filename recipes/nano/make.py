"""Makes the model that ships as `nano`, from nothing: tokenizer, data, supervised training, score head.

    python recipes/nano/make.py                                     # all of it, about 90 minutes on two cores
    python recipes/nano/make.py --output runs/try --max-minutes 5   # a smaller one, to try the recipe

What is there already is not made again: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from reflective.errors import ReflectiveError
from reflective.tasks import drills
from reflective.train.config import SFTConfig, read_config
from reflective.train.data import task_samples
from reflective.train.sft import train_sft
from reflective.train.tokenizer import build_tokenizer, save_tokenizer

HERE = Path(__file__).parent
VOCABULARY = 1024
TEXTS = 20_000  # problems and traces that the tokenizer is learnt from


def main() -> int:
    """Runs the recipe; the exit code is that of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "sft.toml")
    parser.add_argument("--output", help="where the run goes (default: as the configuration says)")
    parser.add_argument("--max-minutes", type=float, help="of training (default: as the configuration says)")
    parser.add_argument("--max-tokens", type=int)
    arguments = parser.parse_args()
    try:
        config = read_config(
            SFTConfig,
            arguments.config,
            output=arguments.output,
            max_minutes=arguments.max_minutes,
            max_tokens=arguments.max_tokens,
        )
        make_tokenizer(config)
        result = train_sft(config)
        if not result.interrupted:
            make_head(config, result.folder)
    except ReflectiveError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return result.exit_code


def make_tokenizer(config: SFTConfig) -> None:
    """The tokenizer, from problems and traces of the training split, every family alike."""
    folder = Path(str(config.tokenizer))
    if (folder / "tokenizer.json").exists():
        return
    print("tokenizer: writing problems and traces to learn it from", file=sys.stderr)
    save_tokenizer(build_tokenizer(_texts(config), VOCABULARY), folder)


def _texts(config: SFTConfig) -> Iterator[str]:
    families = sorted(config.data.families)
    for family in families:
        for sample in task_samples(family, "train", TEXTS // len(families), config.data.levels, config.data.seed):
            yield sample.messages[0]["content"]
            yield "".join(segment.text for segment in sample.segments)


def make_head(config: SFTConfig, model: Path) -> None:
    """The score head, fitted on what the model samples, into `sprm/` beside the weights."""
    from reflective.train.head import HeadConfig, train_head

    train_head(
        HeadConfig(
            model=str(model),
            tasks=tuple(name for name in sorted(config.data.families) if name != drills.NAME),
            levels=config.data.levels,
            problems=1500,
            validation_problems=200,
            max_tokens=400,
            filter="none",  # on a frozen model of this size the SPR filter selects worse (LOG.md)
            logprob_features=True,
            seed=config.seed,
            work=str(Path(config.output) / "rollouts"),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
