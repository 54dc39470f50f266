"""Packed weights: what products compute for every kind, instruction set and shape, and what a model makes of them."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from ctypes import byref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engines.torch.runs import GREEDY, judge_of, make_head, prompts, write
from reflective import Reflective
from reflective.engines.base import Request, Sampling
from reflective.engines.torch import TorchEngine, precision
from reflective.engines.torch.backbones import choose
from reflective.engines.torch.backbones.base import DecodePlan
from reflective.engines.torch.backbones.hf import HFBackbone
from reflective.engines.torch.backbones.native import NativeBackbone, backbone, binding, library, packing
from reflective.engines.torch.backbones.native.binding import MatrixPointer, Prepared
from reflective.engines.torch.backbones.native.packing import pack, unpacked
from reflective.engines.torch.kv import KVMemory
from reflective.errors import CheckpointError, EngineError, InputError
from reflective.models import load, load_checkpoint
from reflective.models.stored import StoredWeights
from tiny import tiny_folder, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler when the package was installed")

KINDS = ("bfloat16", "int8", "int4")
WEIGHT_ERROR = {"bfloat16": 0.003, "int8": 0.015, "int4": 0.1}  # of normal weights, relative; int8 may have 7 bits
BLOCK = {"bfloat16": 2, "int8": 64, "int4": 32}
SOURCES = Path(backbone.__file__).parent
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The compiled step with VNNI's product written in C, for processors without it."""
    if shutil.which(COMPILER) is None:
        pytest.skip("no C compiler here")
    path = tmp_path_factory.mktemp("emulated") / "decode.so"
    flags = ["-O1", "-shared", "-fPIC", "-fopenmp", "-w", "-DREFLECTIVE_EMULATE_VNNI"]
    subprocess.run([COMPILER, *flags, str(SOURCES / "decode.c"), "-o", str(path), "-lm"], check=True)
    found = binding.load(str(path))
    assert found is not None
    return found


@pytest.fixture(params=["widest", "AVX2", "plain", "emulated VNNI"])
def lib(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The library at one of its levels, in the place of the one that is used."""
    found = request.getfixturevalue("emulated") if request.param == "emulated VNNI" else library()
    found.reflective_set_level({"plain": 0, "AVX2": 1}.get(request.param, -1))
    for module in (binding, packing, backbone):
        monkeypatch.setattr(module, "library", lambda: found)
    yield found
    found.reflective_set_level(-1)


def product(lib, matrix, x):
    """W · x for x (K, C), as a pass computes it."""
    (rows, columns), count = matrix.shape, x.shape[1]
    panels = -(-count // 16)
    padded = torch.nn.functional.pad(x, (0, panels * 16 - count))
    inputs = padded.view(columns, panels, 16).transpose(0, 1).contiguous()  # (P, K, 16)
    wide = panels * 16 * -(-columns // 64) * 64
    buffers = (torch.zeros(wide), torch.zeros(wide), torch.zeros(wide, dtype=torch.int32))
    prepared = Prepared(*(buffer.data_ptr() for buffer in buffers))
    out = torch.zeros(panels, rows, 16)
    lib.reflective_product(byref(MatrixPointer.of(matrix)), inputs.data_ptr(), count, byref(prepared), out.data_ptr())
    return out.transpose(0, 1).reshape(rows, -1)[:, :count]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- one matrix

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 1300), st.integers(1, 37))


@pytest.mark.parametrize("kind", KINDS)
@given(shape=SHAPES, seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_a_product_is_that_of_the_packed_numbers(kind, shape, seed):
    rows, columns, count = shape
    matrix = pack(kind, [normal(rows, columns, seed=seed)])
    # inputs that 8 bits hold exactly: integers whose largest, in every block, is 127
    x = torch.randint(-127, 128, (columns, count), generator=torch.Generator().manual_seed(seed)).float()
    x[:: BLOCK[kind]] = 127.0
    for level in (-1, 1, 0):
        library().reflective_set_level(level)
        try:
            found = product(library(), matrix, x)
        finally:
            library().reflective_set_level(-1)
        weights = unpacked(matrix)
        scale = weights.abs() @ x.abs() + 1e-3
        assert ((found - weights.double() @ x.double()).abs() / scale).max() < 2e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 50, 5), (64, 192, 16), (100, 1300, 33), (16, 4864, 3)])
def test_every_instruction_set_computes_it(lib, kind, shape):
    rows, columns, count = shape
    weights = normal(rows, columns)
    matrix = pack(kind, [weights.bfloat16()])
    assert (unpacked(matrix) - weights).norm() < WEIGHT_ERROR[kind] * weights.norm() + 1e-6 or columns == 1
    x = normal(columns, count, seed=1)
    expected = unpacked(matrix) @ x
    assert (product(lib, matrix, x) - expected).norm() < 0.012 * expected.norm() + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_is_the_same_to_the_bit_whatever_stands_beside_it(lib, kind):
    matrix, x = pack(kind, [normal(50, 1100)]), normal(1100, 37, seed=1) * normal(1, 37, seed=2).exp()
    together = product(lib, matrix, x)
    for column in (0, 5, 15, 16, 31, 36):
        assert torch.equal(product(lib, matrix, x[:, column : column + 1])[:, 0], together[:, column])


@pytest.mark.parametrize("kind", KINDS)
def test_parts_begin_at_whole_strips(kind):
    first, second = normal(20, 40), normal(9, 40, seed=1)
    numbers = unpacked(pack(kind, [first, second]))
    assert numbers.shape == (32 + 9, 40)
    assert torch.equal(numbers[:20], unpacked(pack(kind, [first])))
    assert torch.equal(numbers[32:], unpacked(pack(kind, [second])))
    assert not numbers[20:32].any()


def test_bfloat16_is_kept_as_it_is():
    weights = normal(20, 51).bfloat16()
    assert torch.equal(unpacked(pack("bfloat16", [weights])), weights.float())


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_error_of_a_weight_is_at_most_half_a_step_of_its_block(kind):
    weights = normal(32, 256)
    step = weights.view(32, -1, BLOCK[kind]).abs().amax(-1, keepdim=True) / {"int8": 63, "int4": 8}[kind]
    error = (unpacked(pack(kind, [weights])) - weights).view(32, -1, BLOCK[kind]).abs()
    # int4 has one code more on the side of the largest weight: on the other the last step may be cut off
    assert (error <= step * (0.52 if kind == "int8" else 1.02)).all()
    assert error.mean() < 0.27 * step.mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_refused(kind, value, dtype):
    weights = normal(20, 70).to(dtype)
    weights[17, 65] = value
    with pytest.raises(CheckpointError, match=r"layers\.3.*NaN or infinite"):
        pack(kind, [weights], "layers.3")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_input_that_is_no_number_gives_none(lib, kind, value):
    x = normal(130, 3)
    x[77, 1] = value
    out = product(lib, pack(kind, [normal(16, 130)]), x)
    assert not out[:, 1].isfinite().any() and out[:, 0].isfinite().all() and out[:, 2].isfinite().all()


def test_an_outlier_spoils_its_own_block_alone():
    x = normal(640, 4)
    x[70] = 300.0
    weights = normal(48, 640)
    weights[:, 70] *= 1e-3  # so that the outlier itself does not hide the error of the others
    expected = weights @ x
    for kind in ("int8", "int4"):
        matrix = pack(kind, [weights])
        error = product(library(), matrix, x) - unpacked(matrix) @ x
        # the numbers beside it in its block are lost: at most 64 of 640
        assert error.norm() < 0.4 * expected.norm()


# ---- a model


def packed(folder, kind="int8", **options):
    checkpoint = load_checkpoint(folder, dtype=kind, device="cpu", packed=True)
    assert checkpoint.weights is not None
    return TorchEngine.from_checkpoint(checkpoint, **options)


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "llama", "odd"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / request.param
    if request.param == "odd":
        odd = {"hidden_size": 50, "intermediate_size": 37, "vocab_size": 389, "tie_word_embeddings": True}
        model = tiny_model("qwen3", **odd)
        model.save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
        return path
    return tiny_folder(path, request.param)


def engine_of(folder, kind):
    checkpoint = load_checkpoint(folder, dtype=kind, device="cpu", packed=True, require_head=False)
    engine = TorchEngine.from_checkpoint(checkpoint)
    assert "slower" not in engine.remark and "not in" not in engine.remark
    assert isinstance(engine._backbone, NativeBackbone)
    return engine, engine._backbone


PROMPTS = prompts(7, 70, 20)
LENGTHS = [len(p) for p in PROMPTS]


def dense_twin(folder, decoder):
    """The operators on the numbers that the packed matrices hold."""
    model = load_checkpoint(folder, dtype="float32", require_head=False).model
    with torch.no_grad():
        for module, layer in zip(model.get_decoder().layers, decoder.layers, strict=True):
            a, m = module.self_attn, module.mlp
            qkv, gate_up, start = unpacked(layer.qkv), unpacked(layer.gate_up), 0
            for linear in (a.q_proj, a.k_proj, a.v_proj):
                linear.weight.copy_(qkv[start : start + linear.out_features])
                start += linear.out_features
            m.gate_proj.weight.copy_(gate_up[: m.gate_proj.out_features])
            m.up_proj.weight.copy_(gate_up[-m.up_proj.out_features :])
            a.o_proj.weight.copy_(unpacked(layer.out))
            m.down_proj.weight.copy_(unpacked(layer.down))
        model.get_input_embeddings().weight.copy_(unpacked(decoder.embedding))
        model.get_output_embeddings().weight.copy_(unpacked(decoder.lm_head))
    return choose(model, compiled=False)[0]


# what the 8 bits of the inputs cost; these random models multiply an error several times over
NEAR = {"bfloat16": 1e-4, "int8": 0.12, "int4": 0.12}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_features_are_those_of_the_packed_numbers(folder, kind):
    _, ours = engine_of(folder, kind)
    reference = dense_twin(folder, ours.decoder)
    kv, other = KVMemory(ours.shape, 3, 128), KVMemory(reference.shape, 3, 128)
    with torch.no_grad():
        pairs = []
        for row, ids in enumerate(PROMPTS):
            pairs += zip(ours.prefill(ids, kv, row), reference.prefill(ids, other, row), strict=True)
        plan = DecodePlan([1, 2, 3], LENGTHS)
        pairs += zip(ours.decode(plan, kv), reference.decode(plan, other), strict=True)
        errors = [((mine - right).norm() / right.norm()).item() for mine, right in pairs]
    assert max(errors) < NEAR[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_is_the_same_alone_and_among_others_and_with_any_threads(folder, kind):
    def run(threads):
        torch.set_num_threads(threads)
        try:
            _, ours = engine_of(folder, kind)
            kv = KVMemory(ours.shape, 20, 128)
            first = [ours.prefill(PROMPTS[row % 3], kv, row)[0] for row in range(20)]
            plan = DecodePlan([*range(20)], [LENGTHS[row % 3] for row in range(20)])
            logits, features = (t.clone() for t in ours.decode(plan, kv))
            alone, feature = ours.decode(DecodePlan([0], [LENGTHS[0]]), kv)
            assert torch.equal(alone[0], logits[0]) and torch.equal(feature[0], features[0])
            return torch.stack(first), logits, features
        finally:
            torch.set_num_threads(1)

    one = run(1)
    for threads in (2, 5):
        assert all(torch.equal(a, b) for a, b in zip(run(threads), one, strict=True))


def test_keys_and_values_take_half_the_memory_beside_codes_and_are_exact_beside_exact_weights(folder):
    halves = {kind: engine_of(folder, kind)[1].shape for kind in KINDS}
    assert {kind: shape.dtype for kind, shape in halves.items()} == {
        "bfloat16": torch.float32,
        "int8": torch.bfloat16,
        "int4": torch.bfloat16,
    }
    assert halves["bfloat16"].bytes_per_position == 2 * halves["int8"].bytes_per_position


def test_attention_reads_bfloat16_keys_and_values_as_the_numbers_that_they_are(folder):
    _, ours = engine_of(folder, "int8")
    half = KVMemory(ours.shape, 2, 64)
    half.data.copy_(torch.randn(half.data.shape, generator=torch.Generator().manual_seed(3)) * 0.5)
    whole = KVMemory(replace(ours.shape, dtype=torch.float32), 2, 64)
    whole.data.copy_(half.data)
    plan = DecodePlan([5, 6], [40, 23])
    a, b = ours.decode(plan, half)[0].clone(), ours.decode(plan, whole)[0].clone()
    # what differs is the position that is written: rounded in one of them, and one of 24 or 41 that are read
    assert 0 < (a - b).norm() < 0.05 * b.norm()
    half.data[:, :, :, :, 30] += 1.0
    assert (ours.decode(plan, half)[0][0] - a[0]).norm() > 0.1 * (a - b).norm(), "row 0 sees it"


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_text_is_scored_as_it_was_when_it_was_written(tmp_path, kind):
    checkpoint = load_checkpoint(tiny_folder(tmp_path / "m", "qwen3"), dtype=kind, device="cpu", packed=True)
    judge = judge_of(make_head(tiny_model("qwen3")))
    engine = TorchEngine(checkpoint.model, checkpoint.tokenizer, judge, weights=checkpoint.weights)
    requests = [Request(p, Sampling(), seed=i, max_tokens=80, until="eos") for i, p in enumerate(PROMPTS)]
    written = write(engine, requests)
    assert sum(len(t.steps) for t in written) > 3
    for prompt, trajectory in zip(PROMPTS, written, strict=True):
        again = engine.score(prompt, trajectory.token_ids)
        # a column's result depends on nothing beside it, so reading gives the very features of writing
        assert [s.logit for s in again] == pytest.approx([s.logit for s in trajectory.steps], abs=1e-4)


def test_reading_gives_the_log_probabilities_of_what_was_read(folder):
    _, ours = engine_of(folder, "int8")
    ids = PROMPTS[1]
    kv = KVMemory(ours.shape, 1, 128)
    features, logprobs = ours.read(ids, kv, [0, 3, 63, 64, 69], logprobs=True)
    assert features.shape[0] == 5 and len(logprobs) == len(ids) - 1
    for length in (4, 65):
        logits, feature = ours.prefill(ids[:length], kv, 0)
        assert torch.equal(feature, features[{4: 1, 65: 3}[length]])
        assert logprobs[length - 1] == pytest.approx(logits.log_softmax(-1)[ids[length]].item(), abs=1e-5)


def test_greedy_tokens_of_a_bfloat16_checkpoint_are_those_of_its_numbers_in_float32(tmp_path):
    model = tiny_model("qwen3").bfloat16()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    engine, _ = engine_of(tmp_path, "bfloat16")
    dense = TorchEngine.from_checkpoint(load_checkpoint(tmp_path, dtype="float32", require_head=False))
    requests = [Request(p, GREEDY, max_tokens=20, until="eos") for p in PROMPTS]
    for ours, theirs in zip(write(engine, requests), write(dense, requests), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-3)


# ---- choosing it, and what is in the way


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_api_takes_it_by_name(tmp_path, kind):
    model = Reflective.from_pretrained(str(tiny_folder(tmp_path / "m", "qwen3")), dtype=kind, device="cpu")
    assert isinstance(model.engine._backbone, NativeBackbone) and model.engine._backbone.decoder.packed
    assert model.engine.model.device.type == "meta", "nothing is held beside the packed weights"


def test_auto_packs_large_bfloat16_weights_as_they_are_and_nothing_else(tmp_path, monkeypatch):
    stored, wide = tmp_path / "bfloat16", tmp_path / "float32"
    for path, dtype in ((stored, torch.bfloat16), (wide, torch.float32)):
        tiny_model("qwen3").to(dtype).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)

    def dtype_of(path, **options):
        checkpoint = load_checkpoint(path, device="cpu", require_head=False, packed=True, **options)
        return TorchEngine.from_checkpoint(checkpoint).dtype

    assert dtype_of(stored) == dtype_of(wide) == "torch.float32"
    monkeypatch.setattr(load, "SMALL_WEIGHTS", 1)
    monkeypatch.setenv("REFLECTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "choice", lambda found: next(iter(found)))  # what loses nothing is the fastest
    assert dtype_of(stored) == "bfloat16"
    assert dtype_of(wide, dtype="float32") == "torch.float32"
    assert load_checkpoint(wide, device="cpu", require_head=False, packed=True).weights is None
    assert load_checkpoint(stored, device="cpu", require_head=False).weights is None


def test_a_run_can_tell_what_its_weights_were(tmp_path):
    path = tiny_folder(tmp_path / "m", "qwen3")
    assert packed(path, "int4").dtype == "int4"
    vnni = library().reflective_set_level(-1) == 2
    assert packed(path, "int8").dtype == ("int8" if vnni else "int8 (7 bits)")


@pytest.mark.parametrize("family", ["gemma", "phi3"])
def test_a_model_that_can_not_be_packed_runs_in_what_auto_gives_and_says_so(tmp_path, family):
    engine = TorchEngine.from_checkpoint(
        load_checkpoint(tiny_folder(tmp_path / "m", family), dtype="int8", packed=True)
    )
    assert isinstance(engine._backbone, HFBackbone)
    assert family in engine.remark and "not in int8" in engine.remark and "\n" not in engine.remark
    assert write(engine, [Request(PROMPTS[0], max_tokens=5)])[0].tokens == 5


def test_memory_that_ends_while_quantising_is_one_line(tmp_path, monkeypatch):
    checkpoint = load_checkpoint(tiny_folder(tmp_path / "m", "qwen3"), dtype="int8", device="cpu", packed=True)
    real, asked = packing._pages, []

    def pages(size):
        asked.append(size)
        if len(asked) > 3:
            raise MemoryError
        return real(size)

    monkeypatch.setattr(packing, "_pages", pages)
    with pytest.raises(EngineError, match=r"no memory for model\.layers\.0\.mlp\.down_proj.* in int8 .*int4") as error:
        TorchEngine.from_checkpoint(checkpoint)
    assert "\n" not in str(error.value)


def test_without_a_compiler_it_runs_in_what_auto_gives_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "library", lambda: None)
    checkpoint = load_checkpoint(tiny_folder(tmp_path / "m", "qwen3"), dtype="int8", packed=True)
    engine = TorchEngine.from_checkpoint(checkpoint)
    assert "C compiler" in engine.remark and not isinstance(engine._backbone, NativeBackbone)


def test_it_is_refused_where_weights_are_trained_or_on_another_device(tmp_path, monkeypatch):
    path = tiny_folder(tmp_path / "m", "qwen3")
    with pytest.raises(InputError, match="int8"):
        load_checkpoint(path, dtype="int8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="for CPUs"):
        load_checkpoint(path, dtype="int8", device="cuda:0", packed=True)


def test_weights_that_lie_in_several_files_are_found(tmp_path):
    model = tiny_model("qwen3")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    _, ours = engine_of(tmp_path, "bfloat16")
    layer = model.get_decoder().layers[1].mlp.down_proj.weight.detach()
    torch.testing.assert_close(unpacked(ours.decoder.layers[1].down), layer.bfloat16().float(), atol=0, rtol=0)


def test_a_missing_or_wrong_tensor_is_named(tmp_path):
    path = tiny_folder(tmp_path / "m", "qwen3")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 100}))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down_proj.*more are missing or of another shape"):
        load_checkpoint(path, dtype="int8", packed=True)


@pytest.mark.parametrize("keep", [4, 100, 5000])
def test_a_file_that_was_cut_off_is_damaged(tmp_path, keep):
    path = tiny_folder(tmp_path / "m", "qwen3")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        StoredWeights(path, "int8")


@pytest.mark.parametrize("header", [[], {"x": 1}, {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}])
def test_a_file_whose_header_makes_no_sense_is_damaged(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="damaged"):
        StoredWeights(tmp_path, "int8")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.k_norm.weight"])
def test_a_norm_that_is_nan_is_named_when_the_model_is_loaded(tmp_path, name):
    path = tiny_folder(tmp_path / "m", "qwen3")
    tensors = load_file(path / "model.safetensors")
    tensors[name][3] = torch.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinite weights"):
        packed(path)


def test_the_head_s_scores_do_not_depend_on_where_they_are_computed(tmp_path):
    engine = packed(tiny_folder(tmp_path / "m", "qwen3"))
    head = make_head(tiny_model("qwen3"))
    features = normal(3, 64)
    with torch.no_grad():
        right = head.mlp(features[[2, 0]]).tolist()
    assert engine._backbone.score(head, features, [2, 0]) == pytest.approx(right, abs=1e-5)
