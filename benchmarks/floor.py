"""Share of the floor: how long a decoding step must take at this CPU's matrix rate / how long it takes.

The floor of a step is its matrix FLOPs over the rate at which this CPU multiplies two large square matrices, the best
case there is. Everything else that a step does counts against us: norms, rotations, softmax, drawing a token of each
row, scoring, decoding text. The time of the step's own matrix products, with nothing between them, is reported beside
it: the rest of a step is the difference.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from common import Check, Result, Setting, alternate, median, parse, ratio, report, rounded, summary

from models import engine, prompt_ids, random_model
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine

AT_LEAST = 0.75  # at 0.5B
SQUARE, QUICK_SQUARE, PRODUCTS = 2048, 256, 6


def matrices(model: Any) -> list[torch.Tensor]:
    """Every matrix that a decoding step multiplies by, (out, in) each."""
    found = [module.weight.detach() for module in model.get_decoder().modules() if isinstance(module, torch.nn.Linear)]
    return [*found, model.get_output_embeddings().weight.detach()]


def step_flops(model: Any, setting: Setting) -> float:
    """Multiplications and additions of one step: the matrices, and attention over the mean length."""
    config, rows = model.config, setting.rows
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    length = setting.prompt + setting.tokens / 2
    attention = 4 * rows * config.num_attention_heads * size * length * config.num_hidden_layers
    return 2.0 * rows * sum(m.numel() for m in matrices(model)) + attention


def square_rate(setting: Setting) -> float:
    """FLOP/s of a product of large square matrices, the best of a few."""
    n = QUICK_SQUARE if setting.quick else SQUARE
    a, b = torch.randn(n, n), torch.randn(n, n)
    best = float("inf")
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best


def decoding_step(writer: TorchEngine, setting: Setting) -> float:
    """Mean seconds of a step, from the second one (the first prefills) to the last but one (the last one finishes)."""
    for row in range(setting.rows):
        writer.submit(Request(prompt_ids(setting), Sampling(), seed=row, max_tokens=setting.tokens, until="eos"))
    taken = []
    while writer.busy:
        start = time.perf_counter()
        writer.step()
        taken.append(time.perf_counter() - start)
    steps = taken[1:-1]
    return sum(steps) / len(steps)


@torch.inference_mode()
def products_alone(weights: list[torch.Tensor], setting: Setting) -> float:
    """Seconds of the step's matrix products with nothing between them."""
    inputs = {m.shape[1]: torch.randn(m.shape[1], setting.rows) for m in weights}
    start = time.perf_counter()
    for m in weights:
        torch.mm(m, inputs[m.shape[1]])
    return time.perf_counter() - start


def main() -> None:
    setting = parse(__doc__)
    model = random_model(setting)
    writer = engine(setting, model)
    weights, flops = matrices(model), step_flops(model, setting)

    def floor() -> Result:
        rate = square_rate(setting)
        return {"seconds": flops / rate, "rate": rate}

    def ours() -> Result:
        return {"seconds": decoding_step(writer, setting)}

    def products() -> Result:
        return {"seconds": products_alone(weights, setting)}

    results = alternate({"floor": floor, "ours": ours, "products_alone": products}, setting.repeats)
    share = ratio(results["floor"], results["ours"])
    figures = {
        "sides": {name: summary(runs, setting.rows) for name, runs in results.items()},
        "ratio_of": "seconds of a step, floor / ours",
        **share,
        "gflop_per_step": rounded(flops / 1e9),
        "gflops_square": rounded(max(run["rate"] for run in results["floor"]) / 1e9),
        "gflops_of_the_products_alone": rounded(flops / median(results["products_alone"]) / 1e9),
        "gflops_reached": rounded(flops / median(results["ours"]) / 1e9),
        "share_of_the_products_alone": ratio(results["products_alone"], results["ours"])["ratio"],
    }
    checks = [Check("share of the floor", share["ratio"], ">=", AT_LEAST)]
    report("floor", setting, figures, checks if setting.shape == "half" else [])


if __name__ == "__main__":
    main()
