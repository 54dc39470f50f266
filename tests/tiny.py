"""Tiny random models, a tiny tokenizer and tiny checkpoints for tests: real Hugging Face classes, made in milliseconds.

The tokenizer writes bytes; ".\\n\\n" is one token, `<think>`, `</think>` and the turn marks are one token each. The
models' vocabulary is larger than the tokenizer's, as in real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from reflective.judge.config import JudgeConfig
from reflective.judge.heads.paper import SPRMHead
from reflective.judge.judge import Judge, init_judge
from reflective.models import Checkpoint, save_checkpoint

VOCABULARY = 300
CONTEXT = 512

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
}

# what each family needs beside the common settings
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    "llama": {},
    "mistral": {"sliding_window": None},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 16, "layer_types": None},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, ".\\n\\n" as one token, and the special tokens, which are of no other use than their names say."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = "Ċ"  # how byte-level vocabularies write "\n"
    pieces = [*alphabet, newline * 2, "." + newline * 2]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [(newline, newline), (".", newline * 2)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def tiny_model(family: str = "qwen2", *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random causal language model of `family` in float32 and eval mode; `overrides` go into its config.

    Weights are larger than at a usual initialisation, so that next-token distributions are far from flat and greedy
    text does not repeat one token.
    """
    tokenizer = tiny_tokenizer()
    settings = {**_COMMON, **FAMILIES[family], **overrides}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CONFIG_MAPPING[family](
        **{k: v for k, v in settings.items() if v is not None or k == "sliding_window"}, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=2.0 * parameter.shape[1] ** -0.5)
                else:  # biases and norms: none is at its start value, or a test could not tell that it is left out
                    parameter.add_(0.2 * torch.randn_like(parameter))
                    if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                        parameter.add_(2.0)  # or the embedding drowns the layers of Gemma 2 and 3
    return model.eval()


def init_head(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, think: str = "", think_end: str = "", **settings: Any
) -> tuple[SPRMHead, JudgeConfig]:
    """Head and config of a fresh judge. `rule`, `step_token_ids`, `think` and `think_end` say how steps are found."""
    detection = {name: settings.pop(name) for name in ("rule", "step_token_ids") if name in settings}
    if think:
        detection["marks"] = (think, think_end)
    judge = init_judge(model, tokenizer, detection=detection, **settings)
    assert isinstance(judge.head, SPRMHead)
    return judge.head, judge.config


def tiny_checkpoint(family: str = "qwen2", *, seed: int = 0, name: str = "tiny", **head_settings: Any) -> Checkpoint:
    """A tiny model with a random head, in memory; `head_settings` go to `init_head`."""
    model, tokenizer = tiny_model(family, seed=seed), tiny_tokenizer()
    head, config = init_head(model, tokenizer, seed=seed, **head_settings)
    return Checkpoint(model, tokenizer, Judge(config, head.eval()), name)


def tiny_folder(folder: Path, family: str = "qwen2", *, seed: int = 0, **head_settings: Any) -> Path:
    """`tiny_checkpoint`, saved."""
    return save_checkpoint(folder, tiny_checkpoint(family, seed=seed, **head_settings))
