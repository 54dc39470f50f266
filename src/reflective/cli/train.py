"""`reflective train`: a small model from traces (sft), a head for a model that exists (head), both together (joint)."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from typing import Any

from reflective.cli import DONE, INTERRUPTED
from reflective.cli.common import add_row_arguments, field_mapping, print_json, say

DESCRIPTION = """\
Train a small model from solution traces, a score head for a model of your own, or policy and head together."""
EXAMPLES = """\
examples:
  reflective train sft recipes/nano/sft.toml --output runs/nano
  reflective train head --model path/to/model --data problems.jsonl
  reflective train joint recipes/nano/joint.toml
"""
SFT_DESCRIPTION = """\
Train a model on solution traces, from scratch or from a checkpoint, as a TOML file says. Ctrl-C saves and stops; the
same command goes on where it was. Losses go to stderr and to TensorBoard (logs/ in the output folder)."""
SFT_EXAMPLES = """\
examples:
  reflective train sft recipes/nano/sft.toml --output runs/nano
  reflective train sft recipes/nano/sft.toml --output runs/short --max-minutes 5
"""

HEAD_DESCRIPTION = """\
Train a score head for a model that exists; the model itself does not change. Problems and their final answers go in:
trajectories are sampled and graded, the head learns which steps lead to right answers, and its confidence is
calibrated on problems held out. --data names a file (JSON lines, JSON, CSV, parquet), a benchmark, whose training
problems it takes, or hub:OWNER/NAME. Without --output the head is saved into the model's folder. Ctrl-C stops; the same
command goes on where it was."""
HEAD_EXAMPLES = """\
examples:
  reflective train head --model path/to/model --data problems.jsonl
  reflective train head --model path/to/model --data gsm8k --problems 500 --output runs/adapted
  reflective train head --model path/to/model --data sums.csv --fields question=q answer=a --like gsm8k
  reflective train head --model nano --task gcd lcm --problems 200 --output runs/own-head
"""

JOINT_DESCRIPTION = """\
Train the policy and its score head together from final answers alone (GRPO and the SPR loss in one forward), as a TOML
file says. The figures go to stderr, to TensorBoard and to curves.jsonl in the output folder; curves.png shows them at
the end. Ctrl-C saves and stops; the same command goes on where it was, bit for bit. On several GPUs:
accelerate launch --config_file recipes/accelerate/fsdp2-1x8.yaml -m reflective train joint CONFIG.toml"""
JOINT_EXAMPLES = """\
examples:
  reflective train joint recipes/nano/joint.toml
  reflective train joint recipes/nano/joint.toml --output runs/short --steps 10
"""
PLAN_DESCRIPTION = """\
Compute what joint training of a model takes: memory on each GPU, hours, and which configuration to launch it with. An
estimate from the model's shape alone; nothing is loaded."""
PLAN_EXAMPLES = """\
examples:
  reflective train plan 7b
  reflective train plan 32b --gpus 16 --tokens 16384 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    sft = actions.add_parser("sft", help="traces to a model", description=SFT_DESCRIPTION, epilog=SFT_EXAMPLES)
    sft.add_argument("config", metavar="CONFIG.toml", help="what to train, on what, and how")
    sft.add_argument("--output", metavar="FOLDER", help="where the run and the model go")
    sft.add_argument("--max-minutes", type=float, metavar="M", help="end the run, decayed, after so many minutes")
    sft.add_argument("--max-tokens", type=int, metavar="N", help="end the run after so many tokens")
    sft.add_argument("--seed", type=int, metavar="N")
    sft.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    sft.add_argument("--json", action="store_true", help="print how the run ended as one JSON object")
    sft.set_defaults(action_run=_sft)

    head = actions.add_parser(
        "head", help="problems and final answers to a head", description=HEAD_DESCRIPTION, epilog=HEAD_EXAMPLES
    )
    _configure_head(head)
    head.set_defaults(action_run=_head)

    joint = actions.add_parser(
        "joint", help="policy and head together", description=JOINT_DESCRIPTION, epilog=JOINT_EXAMPLES
    )
    joint.add_argument("config", metavar="CONFIG.toml", help="what to train, on what, and how")
    joint.add_argument("--model", metavar="NAME", help="nano, a folder or a hub id")
    joint.add_argument("--output", metavar="FOLDER", help="where the run and the model go")
    joint.add_argument("--steps", type=int, metavar="N", help="optimizer steps")
    joint.add_argument("--seed", type=int, metavar="N")
    joint.add_argument("--device", help="auto or cpu")
    joint.add_argument("--json", action="store_true", help="print how the run ended as one JSON object")
    joint.set_defaults(action_run=_joint)

    plan = actions.add_parser(
        "plan", help="what joint training takes", description=PLAN_DESCRIPTION, epilog=PLAN_EXAMPLES
    )
    plan.add_argument("model", metavar="MODEL", help="1.5b, 7b, 32b (Qwen2.5), or a folder with a config.json")
    numbers: tuple[tuple[str, type, str], ...] = (
        ("gpus", int, "GPUs in all (default: 8)"),
        ("gpu-gib", float, "memory of each in GiB (default: 80)"),
        ("trajectories", int, "of a step (default: 256)"),
        ("tokens", int, "of a trajectory with its prompt (default: 8192)"),
        ("micro-batch", int, "trajectories through the model at once on each GPU (default: 1)"),
        ("steps", int, "optimizer steps (default: 400)"),
    )
    for name, kind, what in numbers:
        plan.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    plan.add_argument("--json", action="store_true", help="print the plan as one JSON object")
    plan.set_defaults(action_run=_plan)


def _configure_head(head: argparse.ArgumentParser) -> None:
    """One option a setting of `HeadConfig`; what is not given keeps its default there."""
    from reflective.train.head.config import HeadConfig

    head.add_argument("--model", required=True, metavar="NAME", help="nano, a folder or a hub id; a head is not needed")
    head.add_argument("--output", metavar="FOLDER", help="a folder for model and head together")
    head.add_argument("--data", metavar="NAME", help="a file of problems and final answers, or a benchmark")
    head.add_argument("--task", nargs="+", metavar="NAME", dest="tasks", help="families of reflective tasks instead")
    head.add_argument("--levels", nargs="+", type=int, metavar="L", help="of families (1 2 3) and of math500")
    add_row_arguments(head)
    head.add_argument("--system", metavar="TEXT", help="a system message before every problem")
    numbers: tuple[tuple[str, type, str], ...] = (
        ("problems", int, "training problems, at most (of --task: exactly)"),
        ("validation-problems", int, "validation problems, at most (of --task: exactly)"),
        ("validation-share", float, "share of --data that is held out"),
        ("trajectories", int, "samples of a training problem"),
        ("validation-trajectories", int, "samples of a validation problem"),
        ("temperature", float, "of the samples"),
        ("max-tokens", int, "of a sample"),
        ("max-rows", int, "samples written at once"),
        ("epochs", int, "at most so many"),
        ("patience", int, "end after so many epochs without a gain"),
        ("lr", float, "learning rate"),
        ("seed", int, "of all that is drawn"),
    )
    for name, kind, what in numbers:
        default = getattr(HeadConfig, name.replace("-", "_"))
        help = f"{what} (default: {default})"
        head.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=help)
    head.add_argument(
        "--layer",
        type=_layer,
        metavar="N",
        help="hidden state that the head reads (-2, the default: what enters the last layer); auto keeps those of "
        "several layers and takes the best on the validation problems",
    )
    head.add_argument(
        "--position",
        choices=("before", "mean", "auto"),
        help="read the state before a step's last token (default), the mean over its tokens (not for vLLM), or the "
        "better of both",
    )
    head.add_argument(
        "--marks",
        nargs="+",
        metavar="MARK",
        help="around the reasoning, such as '<think>' '</think>'; or whole, for a model that reasons in its response "
        "(default: found from the chat template)",
    )
    rules = ("reference", "paper", "chinese", "paragraph", "line")
    head.add_argument("--step-rule", choices=rules, help="which tokens end a step")
    head.add_argument(
        "--no-look",
        dest="look",
        action="store_false",
        default=None,
        help="don't look at a few problems first, where sampling may turn out to be in vain",
    )
    head.add_argument(
        "--aggregation", metavar="NAME", help="geometric_mean (default), min, last, mean, product or auto"
    )
    head.add_argument(
        "--start", choices=("linear", "random"), help="from a linear probe (default), or random as the paper's"
    )
    head.add_argument("--filter", choices=("self_supervised", "none"), help="SPR loss (default), or plain BCE")
    head.add_argument(
        "--logprob-features", action="store_true", default=None, help="let the head see log-probabilities"
    )
    head.add_argument(
        "--engine",
        metavar="E",
        help="what samples: torch (default), vllm, or the addresses of vLLM servers; the features are then read "
        "afterwards, in one pass",
    )
    head.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    head.add_argument("--dtype", help="auto, float32, bfloat16, float16; int8 or int4 (CPU), to sample faster")
    head.add_argument("--work", metavar="FOLDER", help="where the samples are kept (default: in the output folder)")
    head.add_argument("--json", action="store_true", help="print how the run ended as one JSON object")


def _layer(text: str) -> int | str:
    return text if text == "auto" else int(text)


def run(args: argparse.Namespace) -> int:
    """The action that is asked for."""
    code: int = args.action_run(args)
    return code


def _given(args: argparse.Namespace, settings: type[Any]) -> dict[str, Any]:
    """The options that were given, of those that are settings."""
    names = {field.name for field in fields(settings)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def _end(args: argparse.Namespace, result: Any) -> int:
    """Print how a run ended; the exit status."""
    if args.json:
        print_json(asdict(result) | {"folder": str(result.folder)})
    else:
        print(result.folder)
    return INTERRUPTED if result.interrupted else DONE


def _sft(args: argparse.Namespace) -> int:
    from reflective.settings import read_settings
    from reflective.train.sft.config import SFTConfig
    from reflective.train.sft.run import train_sft

    names = ("output", "max_minutes", "max_tokens", "seed", "device")
    result = train_sft(read_settings(SFTConfig, args.config, **{name: getattr(args, name) for name in names}))
    if result.interrupted:
        say("stopped; the same command goes on from here")
    return _end(args, result)


def _head(args: argparse.Namespace) -> int:
    from reflective.settings import make_settings
    from reflective.train.head.config import HeadConfig
    from reflective.train.head.run import train_head

    given = _given(args, HeadConfig) | {"fields": field_mapping(args.fields)}
    return _end(args, train_head(make_settings(HeadConfig, given)))


def _joint(args: argparse.Namespace) -> int:
    from reflective.settings import read_settings
    from reflective.train.joint.config import JointConfig
    from reflective.train.joint.run import train_joint

    names = ("model", "output", "steps", "seed", "device")
    result = train_joint(read_settings(JointConfig, args.config, **{name: getattr(args, name) for name in names}))
    return _end(args, result)


def _plan(args: argparse.Namespace) -> int:
    from reflective.settings import make_settings
    from reflective.train.plan import Work, plan

    found = plan(args.model, make_settings(Work, _given(args, Work)))
    if args.json:
        print_json(found)
        return DONE
    for name, value in found.items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        lacking = (
            "none fits: take more GPUs" if found["advised"] is None else f"none is shipped for {found['gpus']} GPUs"
        )
        print(f"{name.replace('_', ' '):<24} {lacking if shown is None else shown}")
    return DONE
