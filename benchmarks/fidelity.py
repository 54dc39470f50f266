"""What each precision of the compiled step changes, against float32 on the same weights.

For every model: perplexity of a text, the share of positions of float32's greedy text where the other precision would
write the same token, and the rank correlation of trajectory scores (Spearman), with the model's own head or, where it
has none, a random one. `--outlier` adds the same model with one channel 64 times as large as it is (and the weights
that read it 64 times as small), as large models have them: in float32 it writes the same.

    python benchmarks/fidelity.py nano models/qwen2.5-coder-0.5b --outlier
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Check, hardware, progress, rounded
from safetensors.torch import load_file, save_file

from reflective.engines.base import Finished, Request, Sampling
from reflective.engines.torch import TorchEngine
from reflective.engines.torch.backbones.base import DecodePlan
from reflective.engines.torch.kv import KVMemory
from reflective.judge.judge import init_judge
from reflective.models import load_checkpoint, resolve_source

PRECISIONS = ("float32", "bfloat16", "int8", "int4")
PLANTED, FACTOR = 5, 64.0  # a channel, and a power of two: nothing is rounded
READERS = tuple(f"{name}_proj.weight" for name in ("q", "k", "v", "gate", "up"))
PROBLEMS = (
    "Find the Least Common Multiple (LCM) of these numbers: 14, 20",
    "Find the Greatest Common Divisor (GCD) of these numbers: 297, 30",
    "Calculate 17 + 25 * 3 - 8",
    "Using the numbers 3, 7, 12, create an expression that evaluates to 33",
    "Solve for x: 3x + 9 = 30",
    "Write a Python function that reverses a string.",
)
AT_MOST = 1.01  # perplexity over float32's


def engine(folder: Path, precision: str) -> TorchEngine:
    """The model in one precision; a model without a head gets a random one. All of them read by the compiled step."""
    checkpoint = load_checkpoint(folder, dtype=precision, device="cpu", require_head=False, packed=True)
    judge = checkpoint.judge
    if not judge.scores:
        form = SimpleNamespace(config=checkpoint.model.config, device="cpu")
        judge = init_judge(form, checkpoint.tokenizer, seed=0)
    writer = TorchEngine(checkpoint.model, checkpoint.tokenizer, judge, weights=checkpoint.weights)
    writer._backbone.read = writer._backbone._read
    return writer


def written(writer: TorchEngine, rows: int, tokens: int, temperature: float) -> list[tuple[tuple[int, ...], Any]]:
    """Prompts and trajectories."""
    prompts = [writer.encode_prompt(problem) for problem in PROBLEMS]
    owners = {}
    for prompt in prompts:
        for seed in range(rows):
            request = Request(prompt, Sampling(temperature=temperature), seed=seed, max_tokens=tokens, until="eos")
            owners[writer.submit(request)] = prompt
    found = []
    while writer.busy:
        found += [(owners[e.id], e.trajectory) for e in writer.step() if isinstance(e, Finished)]
    return sorted(found, key=lambda pair: (pair[0], pair[1].token_ids))


@torch.inference_mode()
def perplexity(writer: TorchEngine, texts: list[list[int]]) -> float:
    """exp of the mean negative log-probability of a token."""
    logprobs: list[float] = []
    for ids in texts:
        kv = KVMemory(writer._backbone.shape, 1, len(ids))
        logprobs += writer._backbone.read(ids, kv, [0], logprobs=True)[1]
    return math.exp(-statistics.fmean(logprobs))


@torch.inference_mode()
def greedy_share(writer: TorchEngine, texts: list[tuple[tuple[int, ...], Any]]) -> float:
    """The share of tokens of float32's greedy texts that are the likeliest after what stands before them."""
    backbone, same, count = writer._backbone, 0, 0
    kv = KVMemory(backbone.shape, len(texts), max(len(p) + t.tokens for p, t in texts))
    for row, (prompt, trajectory) in enumerate(texts):
        logits, _ = backbone.prefill(prompt, kv, row)
        same, count = same + (int(logits.argmax()) == trajectory.token_ids[0]), count + 1
    steps = min(t.tokens for _, t in texts) - 1  # the rows must be the first ones: as far as all go
    for i in range(steps):
        plan = DecodePlan([t.token_ids[i] for _, t in texts], [len(p) + i for p, _ in texts])
        likeliest = backbone.decode(plan, kv)[0].argmax(-1).tolist()
        same += sum(a == t.token_ids[i + 1] for a, (_, t) in zip(likeliest, texts, strict=True))
        count += len(texts)
    return same / count


def scores(writer: TorchEngine, texts: list[tuple[tuple[int, ...], Any]]) -> list[float]:
    """The score of each trajectory: the mean of its step logits' log-sigmoids."""
    found = []
    for prompt, trajectory in texts:
        logits = [step.logit for step in writer.score(prompt, trajectory.token_ids)]
        found.append(statistics.fmean(-math.log1p(math.exp(-s)) for s in logits) if logits else math.nan)
    return found


def spearman(a: list[float], b: list[float]) -> float | None:
    """The correlation of ranks over the trajectories that have steps."""
    pairs = np.array([(x, y) for x, y in zip(a, b, strict=True) if not math.isnan(x + y)])
    if len(pairs) < 3:
        return None
    ranks = pairs.argsort(0).argsort(0)
    return float(np.corrcoef(ranks.T)[0, 1])


def planted(folder: Path, to: Path) -> Path:
    """A copy whose layers read one channel 64 times as large, by weights 64 times as small."""
    shutil.copytree(folder, to)
    for path in to.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
                tensor[PLANTED] *= FACTOR
            elif name.endswith(
                ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
            ):
                tensor[:, PLANTED] /= FACTOR
        save_file(tensors, path, {"format": "pt"})
    return to


def text_of(writer: TorchEngine, length: int, count: int) -> list[list[int]]:
    """Chunks of the documentation beside this file."""
    pages = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    ids = writer.tokenizer("\n".join(page.read_text(encoding="utf-8") for page in pages)).input_ids
    step = max(len(ids) // count, length)
    return [ids[i : i + length] for i in range(0, len(ids) - length, step)][:count]


def weight_bytes(writer: TorchEngine) -> int:
    """Bytes of all matrices; a tied one counts once."""
    return sum({m.data.data_ptr(): m.nbytes for m in writer._backbone.decoder.matrices()}.values())


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of every precision."""
    figures: dict[str, Any] = {}
    for precision in PRECISIONS:
        writer = engine(folder, precision)
        if precision == "float32":
            greedy = written(writer, 1, args.tokens, 0.0)
            sampled = written(writer, args.rows, args.tokens * 2, 1.0)
            own = [[*p, *t.token_ids] for p, t in sampled]
            # nano knows nothing but its problems: its own samples are its text
            texts = own if args.own else text_of(writer, 512, args.chunks)
            base = perplexity(writer, texts)
            right = scores(writer, sampled)
        ours = perplexity(writer, texts)
        figures[precision] = {
            "perplexity": rounded(ours),
            "perplexity_ratio": rounded(ours / base),
            "greedy_share": rounded(greedy_share(writer, greedy)),
            "score_rank_correlation": rounded(spearman(scores(writer, sampled), right)),
            "weight_mib": round(
                sum({m.data.data_ptr(): m.nbytes for m in writer._backbone.decoder.matrices()}.values()) / 2**20
            ),
        }
        progress(f"{precision}: {figures[precision]}")
        writer.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--outlier", action="store_true", help="also with a planted outlier channel")
    parser.add_argument("--rows", type=int, default=8, help="sampled trajectories per problem (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=48, help="greedy tokens per problem (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=6, help="chunks of 512 tokens of text (default: %(default)s)")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(args.models):
            args.own = name == "nano"
            folder = resolve_source(name)
            progress(name)
            results[Path(name).name] = compare(folder, args)
            if args.outlier:
                progress(f"{name}, outlier channel")
                copy = planted(folder, Path(place) / str(number))
                results[f"{Path(name).name}, outlier channel"] = compare(copy, args)
    checks = [
        Check(f"perplexity of int8, {name}", r["int8"]["perplexity_ratio"], "<=", AT_MOST).to_json(quick=False)
        for name, r in results.items()
    ]
    print(json.dumps({"benchmark": "fidelity", "hardware": hardware(), "models": results, "checks": checks}))


if __name__ == "__main__":
    main()
