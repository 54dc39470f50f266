"""The reports of a joint run: lines on stderr, JSON lines in `curves.jsonl`, and at the end a plot of the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from reflective.files import whole_file
from reflective.train.progress import Note, Stop, clock

CURVES = "curves.jsonl"
PICTURE = "curves.png"
ENTROPY_FLOOR = 0.01  # nats a token; below it, samples of a problem are nearly all the same
GRADABLE_FLOOR = 0.1  # share of trajectories that have an outcome
ALIKE = 0.95  # share of groups with a single outcome above which a step teaches the policy next to nothing
COLUMNS = (  # of the line on stderr: label, figure, format
    ("reward", "reward", "{:.3f}"),
    ("loss", "loss", "{:+.4f}"),
    ("spr", "spr/spr_loss", "{:.4f}"),
    ("gap", "spr/gap", "{:+.3f}"),
    ("kept", "spr/kept", "{:.2f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("kl", "kl", "{:.4f}"),
    ("tokens/s", "tokens_per_s", "{:,.0f}"),
)
HELD_OUT = (
    ("AUC within problems", "eval_spr/auc_within_problems"),
    ("single", "eval_spr/single"),
    ("by score", "eval_spr/best_of_n"),
    ("by log-probability", "eval_spr/logprob"),
    ("oracle", "eval_spr/oracle"),
)
PANELS = (  # of the plot: title, figures
    ("Reward", ("reward",)),
    ("Score of right and wrong", ("spr/score_right", "spr/score_wrong", "spr/gap")),
    ("Held out: AUC within problems", ("eval_spr/auc_within_problems",)),
    ("Held out: right", ("eval_spr/single", "eval_spr/best_of_n", "eval_spr/logprob", "eval_spr/oracle")),
    ("Entropy (nats a token) and KL", ("entropy", "kl")),
    ("Steps kept by the filter", ("spr/kept",)),
)


class Reporter(TrainerCallback):
    """Writes lines, curves and warnings, and stops after a whole step where Ctrl-C was pressed."""

    def __init__(self, folder: Path, note: Note, stop: Stop, leads: bool, agree: Any) -> None:
        self._folder, self._note, self._stop, self._leads, self._agree = folder, note, stop, leads, agree
        self._warned: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the line that a killed process left unfinished."""
        path = self._folder / CURVES
        if self._leads and path.is_file() and not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Save and stop, on all processes, where one of them was asked to; a step is complete here."""
        self._stop.requested = self._agree(self._stop.requested)
        if self._stop.requested:
            control.should_save = control.should_training_stop = True
        return control

    on_evaluate = on_step_end  # after a step, which is saved afterwards, or before the first one

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append the figures to the curves, and print them."""
        logs: dict[str, Any] = kwargs["logs"]
        if not self._leads:
            return
        figures = {k: v for k, v in logs.items() if isinstance(v, int | float) and math.isfinite(v)}
        with (self._folder / CURVES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **figures}) + "\n")
        if any(name.startswith("eval_") for name in figures):
            line = "  ".join(f"{name} {figures[key]:.3f}" for name, key in HELD_OUT if key in figures)
            self._note(f"step {state.global_step:>6}  held out: {line}")
        elif "loss" in figures:
            line = "  ".join(f"{name} {form.format(figures[key])}" for name, key, form in COLUMNS if key in figures)
            left = figures.get("step_time", 0.0) * max(state.max_steps - state.global_step, 0)
            self._note(f"step {state.global_step:>6}/{state.max_steps}  {line}  {clock(left)} left")
            self._warn(figures, state.global_step)

    def _warn(self, figures: dict[str, float], step: int) -> None:
        """Warn once about each condition in which further steps teach little."""
        gradable = figures.get("spr/gradable", 1.0)
        if gradable < GRADABLE_FLOOR:
            self._once(
                f"step {step}: {gradable:.0%} of the trajectories could be graded, and the others teach nothing. See "
                "what [rewards] returns, or who grades ([data] kind).",
                "gradable",
            )
        if gradable and figures.get("entropy", math.inf) < ENTROPY_FLOOR:
            self._once(
                f"step {step}: the entropy has collapsed (below {ENTROPY_FLOOR} nats a token); samples are nearly all "
                "alike. Lower [policy] lr or raise [rollouts] temperature.",
                "entropy",
            )
        if figures.get("frac_reward_zero_std", 0.0) >= ALIKE:
            reward = figures.get("reward", 0.0)
            what = "all right" if reward >= ALIKE else "all wrong" if reward <= 1 - ALIKE else "all right or all wrong"
            other = "harder" if reward > 0.5 else "easier"
            self._once(
                f"step {step}: the trajectories of nearly every problem are {what}, so the policy learns next to "
                f"nothing. Take {other} problems.",
                what,
            )

    def _once(self, text: str, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._note(text)


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every figure; the later values of a step that was run twice, after a kill."""
    found: dict[str, dict[int, float]] = {}
    path = folder / CURVES
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            continue
        step = row.pop("step")
        for name, value in row.items():
            found.setdefault(name, {})[step] = value
    return {name: (sorted(at), [at[step] for step in sorted(at)]) for name, at in found.items()}


def write_picture(folder: Path, note: Note, panels: Sequence[tuple[str, Sequence[str]]] = PANELS) -> Path | None:
    """Plot the curves as PNG; None where there is nothing to show, or no matplotlib (with a note)."""
    curves = read_curves(folder)
    shown = [(title, [n for n in names if n in curves]) for title, names in panels]
    shown = [(title, names) for title, names in shown if names]
    if not shown:
        return None
    try:
        import matplotlib
    except ImportError:
        note('no picture of the curves: matplotlib is not installed. For one, in the checkout: pip install ".[train]"')
        return None
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 2.6 * -(-len(shown) // 2)), layout="constrained")
        for place, (title, names) in enumerate(shown, 1):
            axes = figure.add_subplot(-(-len(shown) // 2), 2, place)
            for name in names:
                axes.plot(*curves[name], label=name.removeprefix("eval_").removeprefix("spr/").replace("_", " "))
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            if len(names) > 1:
                axes.legend(frameon=False)
        with whole_file(folder / PICTURE) as temporary:
            figure.savefig(temporary, dpi=144, format="png")
    return folder / PICTURE
