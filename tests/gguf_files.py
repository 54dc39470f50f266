"""GGUF files of tiny random models, as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy

from tiny import tiny_model, tiny_tokenizer

# names of the weights: Hugging Face's and GGUF's
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path, architecture: str = "qwen2", *, without: str = "nothing", numbers: str = "F32", family: str = "qwen2"
) -> Path:
    """The tiny model as a GGUF file, as llama.cpp's converter writes one; matrices in that number type."""
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    kind = gguf.GGMLQuantizationType[numbers]
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = {i: token for token, i in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in range(config.vocab_size)])
    writer.add_token_types([4 if i in added and not added[i].special else 3 if i in added or i not in names else 1
                            for i in range(config.vocab_size)])  # fmt: skip
    writer.add_token_merges(["Ċ Ċ", ". ĊĊ"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        stem, _, part = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, number, rest = stem.split(".", 3)
            ours = f"blk.{number}.{LAYER[rest]}"
        else:
            ours = TOP[stem]
        if without in ours:
            continue
        data = numpy.ascontiguousarray(tensor.float().numpy())
        if family == "llama" and ours.endswith(("attn_q", "attn_k")):  # llama.cpp's form of rotary embeddings
            heads = config.num_attention_heads if ours.endswith("q") else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        if data.ndim == 2:
            writer.add_tensor(f"{ours}.{part}", gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{ours}.{part}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
