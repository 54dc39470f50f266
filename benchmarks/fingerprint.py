"""How far changes of a model move it from its fingerprint: rounding, quantisation, fine-tuning, other weights.

    python benchmarks/fingerprint.py --model path/to/model --texts texts.jsonl > table.json

The model is fine-tuned on the texts: JSON lines, all of whose strings are joined. The last line on stdout is JSON: for
each change the deviation at half, two thirds and five sixths of the depth and at the last layer's input.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflective.models.fingerprint import deviation, fingerprint_of, tokens_and_positions

TUNED = ((1e-5, 20), (1e-4, 50), (3e-4, 100))  # learning rate and steps of AdamW, each from the model as it is
ROWS, TOKENS = 2, 128  # of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="a folder")
    parser.add_argument("--texts", type=Path, help="JSON lines to fine-tune on; without them it is not fine-tuned")
    args = parser.parse_args()
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), load(args.model)
    depth = model.config.num_hidden_layers
    layers = (depth // 2, 2 * depth // 3, 5 * depth // 6, depth - 1)
    prints = [fingerprint_of(model, tokenizer, layer) for layer in layers]
    ids, positions = tokens_and_positions(prints[0])
    table = {}
    for name, changed in changes(args.model, tokenizer, args.texts):
        with torch.inference_mode():
            states = changed.base_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            found = [deviation(of, states[layer][0][positions]) for of, layer in zip(prints, layers, strict=True)]
        table[name] = [round(value, 3) for value in found]
        print(f"{name:32} {table[name]}", file=sys.stderr, flush=True)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    line = {"benchmark": "fingerprint", "model": args.model.name, "layers": layers, "deviations": table}
    print(json.dumps(line | {"versions": versions}))


def changes(folder: Path, tokenizer: Any, texts: Path | None) -> Iterator[tuple[str, Any]]:
    """Each change with the model that it makes."""
    yield "float32", load(folder)
    yield "bfloat16", load(folder, torch.bfloat16)
    for bits, group in ((8, 0), (4, 32), (4, 0), (3, 32)):
        scales = f"groups of {group}" if group else "a scale a row"
        yield f"int{bits}, {scales}", quantised(load(folder), bits, group)
    if texts is not None:
        for lr, steps in TUNED:
            yield f"fine-tuned, {steps} steps at {lr:g}", tuned(load(folder), tokenizer, texts, lr, steps)
    swapped = load(folder)
    layers = swapped.model.layers
    layers[1], layers[2] = layers[2], layers[1]
    yield "layers 1 and 2 exchanged", swapped
    torch.manual_seed(1)
    yield "other weights", AutoModelForCausalLM.from_config(swapped.config).eval()


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def quantised(model: Any, bits: int, group: int) -> Any:
    """Every matrix rounded to the nearest of 2^bits − 1 numbers, with a scale a row or for so many of its columns."""
    most = 2 ** (bits - 1) - 1
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parts = parameter.view(parameter.shape[0], -1, group or parameter.shape[1])
            scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12) / most
            parts.copy_((parts / scale).round() * scale)
    return model


def tuned(model: Any, tokenizer: Any, texts: Path, lr: float, steps: int) -> Any:
    rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()[:400]]
    whole = "\n\n".join(str(value) for row in rows for value in row.values() if isinstance(value, str))
    ids = torch.tensor(tokenizer.encode(whole, add_special_tokens=False, verbose=False))
    draws, optimizer = torch.Generator().manual_seed(1), torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - TOKENS, (ROWS,), generator=draws).tolist()
        batch = torch.stack([ids[start : start + TOKENS] for start in starts])
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
