"""How fast a replica writes: seconds of a step by the rows in it, tokens read per second, and how many rows fit.

Rates are measured (`measure.py`, or a JSON file) or assumed. Assumed ones follow the roofline of a decoding step: it
reads every weight once and the keys and values of every row, and multiplies every weight with every row; the slower of
the two counts. The peaks are those of the data sheets; the shares of them that are reached are assumptions, each with
its source, and nothing here was run on such machines.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from reflective.errors import InputError, first_line
from reflective.models.shape import BF16, Shape
from reflective.settings import at_least, check_names

# share of the peak bandwidth that decoding reaches: 0.6 with small batches on H100 (Databricks, "LLM Inference
# Performance Engineering: Best Practices", 2023), and large batches stay bound by memory (arXiv 2503.08311)
BANDWIDTH_SHARE: Final = 0.6
COMPUTE_SHARE: Final = 0.4  # share of the peak FLOP/s that reading a prompt reaches; as in `reflective.train.plan`
STEP_OVERHEAD_S: Final = 0.002  # of a step besides: scheduling, sampling, launches. Assumed, of the order of a ms
PARALLEL_SHARE: Final = 0.8  # of the added GPUs' speed that is left after tensor parallelism. Assumed
USABLE: Final = 0.9  # of a GPU's memory; vLLM's default of --gpu-memory-utilization
OVERHEAD_BYTES: Final = 2 * 2**30  # activations, CUDA graphs. Assumed
MOST_ROWS: Final = 256  # sequences that a replica writes at once: --max-num-seqs


@dataclass(frozen=True, slots=True)
class Gpu:
    """Of a data sheet: dense bfloat16 FLOP/s, bytes of memory, bytes per second."""

    peak: float
    memory: float
    bandwidth: float
    source: str


GPUS: Final[Mapping[str, Gpu]] = {
    "a100": Gpu(312e12, 80e9, 2.039e12, "NVIDIA A100 data sheet, SXM 80 GB"),
    "h100": Gpu(989e12, 80e9, 3.35e12, "NVIDIA H100 data sheet, SXM 80 GB"),
    "h200": Gpu(989e12, 141e9, 4.8e12, "NVIDIA H200 data sheet, SXM"),
    "l40s": Gpu(362e12, 48e9, 0.864e12, "NVIDIA L40S data sheet"),
}


@dataclass(frozen=True, slots=True)
class Rates:
    """A replica's. `steps` are pairs of rows and seconds of a step, by rows; between them it is linear.

    `request_s` is what a request costs the client besides: HTTP, templates, reading the answer.
    """

    steps: tuple[tuple[int, float], ...]
    prompt_tokens_per_s: float
    max_rows: int
    source: str
    measured: bool
    gpus: int = 0
    request_s: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, 1, "max_rows")
        rows = [rows for rows, _ in self.steps]
        if not rows or rows != sorted(set(rows)) or rows[0] < 1 or not all(s > 0 for _, s in self.steps):
            raise InputError(
                "steps must be pairs of rows and seconds above 0, by rows, such as [[1, 0.01], [64, 0.02]]."
            )
        if not self.prompt_tokens_per_s > 0:
            raise InputError(f"prompt_tokens_per_s must be above 0, got {self.prompt_tokens_per_s}.")

    def step_s(self, rows: int) -> float:
        """Seconds of a step that writes one token of each of so many rows."""
        at = bisect_left(self.steps, (rows, 0.0))
        if at == 0:
            return self.steps[0][1]
        if at == len(self.steps):
            if at == 1:
                return self.steps[0][1]
            at -= 1  # beyond the last point the line goes on
        (x0, y0), (x1, y1) = self.steps[at - 1], self.steps[at]
        return max(y0 + (y1 - y0) * (rows - x0) / (x1 - x0), 1e-9)

    @property
    def tokens_per_s(self) -> float:
        """Written by a full replica."""
        return self.max_rows / self.step_s(self.max_rows)

    def to_json(self) -> dict[str, Any]:
        """What a file of rates holds."""
        return asdict(self)


def read_rates(path: Path) -> Rates:
    """The rates of a JSON file, such as `reflective plan serve --measure --json` writes under `rates`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data = data.get("rates", data)
        check_names(data, Rates.__dataclass_fields__, "rate")
        return Rates(**{**data, "steps": tuple((int(rows), float(seconds)) for rows, seconds in data["steps"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} holds no rates: {first_line(error)}.") from error


def assumed_rates(
    shape: Shape, gpu: str, tokens: float, *, gpus: int | None = None, most_rows: int = MOST_ROWS
) -> Rates:
    """The rates of a replica of vLLM on so many of these GPUs; by default on as few as leave room for keys and values.

    `tokens` are those of a trajectory with its prompt. A row holds half of them on average while it is written.
    """
    check_names([gpu], GPUS, "GPU")
    if most_rows < 1 or (gpus is not None and gpus < 1):
        raise InputError(f"a replica has 1 or more GPUs and rows; got {gpus} GPUs and {most_rows} rows.")
    card = GPUS[gpu]
    weights = BF16 * (shape.parameters + shape.head_parameters)
    row = shape.kv_bytes * tokens

    def rows_on(count: int) -> int:
        room = count * (USABLE * card.memory - OVERHEAD_BYTES) - weights
        return min(int(room / row), most_rows)

    # as few GPUs as write a quarter of the rows that are allowed, or else as many as a machine has
    few = (count for count in (1, 2, 4, 8) if rows_on(count) >= most_rows // 4)
    count = next(few, 8) if gpus is None else gpus
    rows = rows_on(count)
    if rows < 1:
        raise InputError(
            f"{weights / 1e9:.0f} GB of weights and a trajectory of {tokens:,.0f} tokens don't fit into {count} of "
            f"{gpu}; use more GPUs, or larger ones."
        )
    speed = 1 + PARALLEL_SHARE * (count - 1)

    def step_s(n: int) -> float:
        # t(n) = overhead + max((weights + n · T/2 · kv) / bandwidth, 2·N·n / FLOP/s)
        read = (weights + n * row / 2) / (BANDWIDTH_SHARE * card.bandwidth * speed)
        computed = 2 * shape.parameters * n / (COMPUTE_SHARE * card.peak * speed)
        return STEP_OVERHEAD_S + max(read, computed)

    points = sorted({min(2**i, rows) for i in range(12)})
    return Rates(
        steps=tuple((n, step_s(n)) for n in points),
        prompt_tokens_per_s=COMPUTE_SHARE * card.peak * speed / (2 * shape.parameters),
        max_rows=rows,
        source=f"assumed: roofline of {count} × {gpu} ({card.source}), {BANDWIDTH_SHARE:.0%} of the bandwidth",
        measured=False,
        gpus=count,
    )
