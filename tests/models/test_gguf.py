"""GGUF files: named as a model or imported into a folder, and refused in one line where they can't be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from reflective import files
from reflective.errors import CheckpointError, DependencyError, ReflectiveError
from reflective.models import describe, load_checkpoint, resolve_source
from reflective.models import gguf as gguf_module
from reflective.models.gguf import cached_folder, import_gguf, is_converted, is_gguf
from tiny import tiny_model, tiny_tokenizer

gguf = pytest.importorskip("gguf")
Run = Callable[..., tuple[int, str, str]]

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


def write_gguf(path: Path, architecture: str = "qwen2", *, without: str = "nothing") -> Path:
    """The tiny model as a GGUF file in float32, as llama.cpp's converter writes one."""
    model, tokenizer = tiny_model("qwen2"), tiny_tokenizer()
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
        stem, _, kind = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, number, rest = stem.split(".", 3)
            ours = f"blk.{number}.{LAYER[rest]}"
        else:
            ours = TOP[stem]
        if without not in ours:
            writer.add_tensor(f"{ours}.{kind}", numpy.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_loads_as_the_model_that_it_holds_and_is_converted_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    assert not is_converted(path)
    loaded = load_checkpoint(path, device="cpu", dtype="float32", require_head=False)
    ids = torch.tensor([loaded.tokenizer.encode("One.\n\nTwo")])
    assert ids.tolist() == [tiny_tokenizer().encode("One.\n\nTwo")]
    model = tiny_model("qwen2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # what conversion loses
        ours, theirs = loaded.model(ids).logits, model(ids).logits
    torch.testing.assert_close(ours, theirs)
    assert loaded.tokenizer.chat_template == tiny_tokenizer().chat_template
    assert is_converted(path) and cached_folder(path).parent == cache / "gguf"

    def again(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(gguf_module, "import_gguf", again)
    assert resolve_source(path) == cached_folder(path)


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    first = cached_folder(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert cached_folder(path) != first


def test_the_command_makes_a_folder_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reflective.cli import main

    path, out = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "out"
    assert main(["import", str(path), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert describe(out)["dtype"] == "bfloat16"
    assert main(["import", str(path), str(out)]) == 1 and "not empty" in capsys.readouterr().err
    assert main(["import", str(path)]) == 2 and "name the folder to write to" in capsys.readouterr().err
    assert main(["import", str(path), "x", "--rule", "paper"]) == 2


def refusal(path: Path) -> str:
    with pytest.raises(ReflectiveError) as caught:
        import_gguf(path, path.parent / "out")
    assert not (path.parent / "out").exists()
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(path) in message
    return message


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    message = refusal(write_gguf(tmp_path / "new.gguf", "rwkv9"))
    assert "of the architecture 'rwkv9', which transformers can't read from GGUF" in message


def test_a_damaged_file_and_one_that_is_none(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:5000])
    assert "can't be read" in refusal(path)
    (tmp_path / "none.gguf").write_bytes(b"not at all")
    assert "no GGUF file, or a damaged one" in refusal(tmp_path / "none.gguf")
    assert is_gguf(tmp_path / "none.gguf") and not is_gguf(tmp_path / "nothing")


def test_missing_weights_are_told(tmp_path: Path) -> None:
    assert "lacks weights: model.layers." in refusal(write_gguf(tmp_path / "tiny.gguf", without="ffn_up"))


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DependencyError, match="pip install gguf accelerate"):
        load_checkpoint(path, require_head=False)


def test_embedding_and_output_that_were_one_matrix_are_one_again() -> None:
    model = tiny_model("qwen2", vocab_size=300)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.get_input_embeddings().weight + 1e-4)
    finer = model.lm_head.weight.clone()
    gguf_module._tie(model)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, finer)
    other = tiny_model("qwen2")
    gguf_module._tie(other)
    assert not other.config.tie_word_embeddings


def test_a_folder_of_gguf_files_says_which_to_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointError, match=f"Name one of them: --model {path}"):
        resolve_source(tmp_path)
