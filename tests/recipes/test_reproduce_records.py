"""What the reproduction samples, reads, fits and writes: on a tiny random model, compared with the engine itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

import heads
import lab
import reproduce
import reward_model
import sampling
import settings
from safetensors.torch import load_file, save_file

from reflective import Problem, read_records
from reflective.engines.torch import TorchEngine
from reflective.errors import InputError
from reflective.judge.aggregate import aggregate
from reflective.judge.config import HEAD_FILE
from reflective.records.manifest import RECORDS
from reflective.search import Settings as SearchSettings
from reflective.shards import Place, load_features
from reflective.train import features
from reflective.train.rollouts import Rollouts
from tiny import tiny_checkpoint, tiny_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STEP_TOKENS = tuple(range(40, 100))  # so many that random text is full of steps
PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1), id=f"p{i}", family="sum", kind="exact") for i in range(4)]
LIMITS = SearchSettings(seed=3, max_tokens=24, answer_tokens=6)
"""More is not needed: a random model never closes its thinking by itself."""


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS)


@pytest.fixture(scope="module")
def records(checkpoint, tmp_path_factory):
    engine = TorchEngine.from_checkpoint(tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS))
    folder = tmp_path_factory.mktemp("sampled")
    return sampling.sample(engine, PROBLEMS, 3, folder, LIMITS, lambda text: None, keep_ids=True)


@pytest.fixture(scope="module")
def places():
    return [Place(-2, "before"), Place(-1, "at"), Place(-3, "at")]


@pytest.fixture(scope="module")
def folder(checkpoint, records, places, tmp_path_factory):
    target = tmp_path_factory.mktemp("features")
    features.read_features(checkpoint.model, checkpoint.config.format, records, places, target, lambda text: None)
    return target


def test_what_is_recorded_is_not_sampled_again(records, tmp_path):
    (tmp_path / "run").mkdir()
    engine = TorchEngine.from_checkpoint(tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS))
    first = sampling.sample(engine, PROBLEMS, 3, tmp_path / "run", LIMITS, lambda text: None, keep_ids=True)
    assert [r.trajectories for r in first] == [r.trajectories for r in records]
    written = (tmp_path / "run" / RECORDS).read_bytes()
    engine.submit = None  # whoever samples now fails
    again = sampling.sample(engine, PROBLEMS, 3, tmp_path / "run", LIMITS, lambda text: None, keep_ids=True)
    assert [r.key for r in again] == [p.id for p in PROBLEMS]
    assert (tmp_path / "run" / RECORDS).read_bytes() == written


def test_a_folder_holds_one_model_only(records, tmp_path):
    engine = TorchEngine.from_checkpoint(tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS))
    sampling.sample(engine, PROBLEMS[:1], 2, tmp_path, LIMITS, lambda text: None)
    other = TorchEngine.from_checkpoint(tiny_checkpoint("qwen3", seed=1, step_token_ids=STEP_TOKENS))
    with pytest.raises(InputError, match="other settings"):
        sampling.sample(other, PROBLEMS[:1], 2, tmp_path, LIMITS, lambda text: None)


def test_states_read_in_batches_are_those_of_each_trajectory_alone(checkpoint, records, places, folder):
    found = {place: load_features(folder, place) for place in places}
    for record in records:
        start = 0
        for written in features.sequences(record, checkpoint.config.format):
            with torch.no_grad():
                out = checkpoint.model(torch.tensor([written.ids]), output_hidden_states=True)
            end = start + len(written.steps)
            for place, steps in found.items():
                at = [len(written.prompt) + step - (place.position == "before") for step in written.steps]
                alone = out.hidden_states[place.layer][0, at]
                torch.testing.assert_close(steps[record.key].features[start:end].float(), alone, rtol=1e-2, atol=1e-2)
            start = end
        assert start == sum(found[places[0]][record.key].counts) > 0


def test_the_head_says_of_read_states_what_it_said_while_they_were_written(checkpoint, records, places, folder):
    steps = load_features(folder, places[0])
    for record, logits in zip(records, heads.logits_of(checkpoint.head, records, steps), strict=True):
        assert [t.step_positions for t in record.trajectories] == [tuple(p) for p in steps[record.key].positions]
        for t, values in zip(record.trajectories, logits, strict=True):
            # the states were rounded to bfloat16, by 2^-9 of themselves; the logits of this random head go up to tens
            assert values == pytest.approx(t.step_logits, abs=0.2)


def test_shards_that_are_there_are_not_read_again(checkpoint, records, places, folder):
    features.read_features(None, checkpoint.config.format, records, places, folder, lambda text: None)


def test_batches_hold_every_index_once_and_no_more_tokens_than_allowed():
    lengths = [5, 1, 9, 3, 3, 40, 2, 8]
    found = list(features.batches(lengths, 18))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 18 for b in found)


def test_rollouts_hold_the_steps_and_the_outcome_of_each_trajectory(records, places, folder):
    steps = load_features(folder, places[0])
    rollouts = Rollouts.of(records, steps)
    trajectories = [t for record in records for t in record.trajectories]
    assert len(rollouts) == len(trajectories) == 12
    assert [b - a for a, b in zip(rollouts.starts, rollouts.starts[1:])] == [len(t.step_logits) for t in trajectories]
    assert rollouts.outcomes == [0] * 12  # none is finished, so none is right
    assert rollouts.problems == [i for i in range(4) for _ in range(3)]


def test_a_judges_records_hold_its_scores_and_its_choice(records, places, folder, tmp_path):
    steps = load_features(folder, places[0])
    ended = [replace(r, trajectories=tuple(replace(t, answer_text="7") for t in r.trajectories)) for r in records]
    logits = [[[float(i)] * count for i, count in enumerate(steps[r.key].counts)] for r in ended]
    heads.write_scored(tmp_path / "judge", ended, steps, logits, "geometric_mean")
    assert [path.name for path in (tmp_path / "judge").iterdir()] == [RECORDS]
    for record, values in zip(read_records(tmp_path / "judge" / RECORDS), logits, strict=True):
        assert [t.score for t in record.trajectories] == [aggregate(v) for v in values]
        assert record.selected == max(record.trajectories, key=lambda t: t.score or 0.0).index == 2
        assert record.model == "judge" and not record.prompt_ids and not any(t.token_ids for t in record.trajectories)


def test_a_separate_model_reads_behind_its_last_layer_and_no_further_than_it_must(checkpoint, records, tmp_path):
    model = reward_model.RewardModel(checkpoint.model.get_decoder(), checkpoint.head)
    rule, place = checkpoint.config.format, reward_model.PLACE
    features.read_features(checkpoint.model, rule, records, [place], tmp_path, lambda text: None)
    wanted = heads.logits_of(checkpoint.head, records, load_features(tmp_path, place))
    groups = [features.sequences(record, rule) for record in records]
    for group, mine, theirs in zip(groups, reward_model.score(model, groups), wanted, strict=True):
        for row, values, expected in zip(group, mine, theirs, strict=True):
            # the states that were kept are rounded to bfloat16
            assert values == pytest.approx(expected, abs=0.1)
            assert len(reward_model.read_ids(row)) == (len(row.prompt) + row.steps[-1] if row.steps else 1)


def test_a_standardised_head_sees_mean_zero_and_deviation_one(checkpoint):
    raw = 3 + 5 * torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    raw[:, 0] = 7.0  # never varies: keeps its scale
    plain, fitted = (tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS).head for _ in range(2))
    reward_model.standardise(fitted, raw)
    deviation = torch.where(raw.std(0) > 0, raw.std(0), 1.0)
    with torch.no_grad():
        torch.testing.assert_close(fitted(raw), plain((raw - raw.mean(0)) / deviation), rtol=1e-4, atol=1e-4)


def test_a_separate_model_learns_and_moves_its_backbone(checkpoint, records):
    backbone = tiny_checkpoint("qwen3", step_token_ids=STEP_TOKENS)
    model = reward_model.RewardModel(backbone.model.get_decoder(), backbone.head)
    # right is what is written longer: something that can be learnt
    labelled = [_labelled(record) for record in records]
    data = [(record, features.sequences(record, checkpoint.config.format)) for record in labelled]
    told = []
    study = settings.SeparateSettings(epochs=3, lr=1e-3, batch_problems=2)
    reward_model.train(model, data, data, study, 1, told.append)
    losses = [float(text.split("loss ")[1].split()[0]) for text in told]
    assert losses[-1] < losses[0]
    before = dict(checkpoint.model.get_decoder().named_parameters())
    still = [name for name, p in model.backbone.named_parameters() if torch.equal(p, before[name])]
    assert not still  # all of it learns


def _labelled(record):
    from reflective import Verdict

    middle = sorted(sum(t.step_positions) for t in record.trajectories)[1]
    verdicts = [Verdict("right" if sum(t.step_positions) > middle else "wrong") for t in record.trajectories]
    return replace(
        record, trajectories=tuple(replace(t, verdict=v) for t, v in zip(record.trajectories, verdicts, strict=True))
    )


# ---- settings


def test_a_study_is_of_one_model_with_its_head(tmp_path):
    found = settings.read_settings(RECIPES / "reproduce" / "quick.toml")
    for seed in (0, 1):
        tiny_folder(tmp_path / str(seed) / "model", "qwen3", step_token_ids=STEP_TOKENS)
    head = tmp_path / "1" / "model" / "sprm" / HEAD_FILE
    save_file({name: tensor + 1 for name, tensor in load_file(head).items()}, head)
    first, other = (
        lab.Lab(replace(found, model=str(tmp_path / str(seed) / "model")), tmp_path / "run", print) for seed in (0, 1)
    )
    first.claim("efforts")
    first.claim("efforts")
    assert first.weights == other.weights
    with pytest.raises(InputError, match="another 'head_weights'"):
        other.claim("efforts")


def test_what_is_asked_for_is_made_in_that_order():
    assert reproduce._numbers([8, 3, 3]) == [8, 3] and reproduce._numbers(None) == [*range(1, 9)]


def test_the_law_s_models_know_which_recipe_made_them():
    found = settings.read_settings(RECIPES / "reproduce" / "full.toml").of_study("scaling")
    assert found["recipe"]["optimizer"]["matrices"] == "muon" and len(found["study"]["heads"]) == 2


def test_the_shipped_settings_are_read():
    for name in ("full", "quick"):
        found = settings.read_settings(RECIPES / "reproduce" / f"{name}.toml")
        assert len(found.seeds) >= 3 and len(found.scaling.sizes) >= 3
        assert len({*found.losses.variants, *found.aha.variants}) >= 5
        json.dumps(found.of_study("aha"))


def test_a_file_that_extends_another_says_only_what_differs():
    full, quick = (settings.read_settings(RECIPES / "reproduce" / f"{name}.toml") for name in ("full", "quick"))
    assert quick.data.test_problems < full.data.test_problems
    assert quick.losses.variants == full.losses.variants and quick.data.levels == full.data.levels


def test_overrides_stand_above_the_file():
    found = settings.read_settings(RECIPES / "reproduce" / "quick.toml", model="elsewhere", output=None)
    assert found.model == "elsewhere" and found.output == "runs/reproduce-quick"


def test_what_is_merged_keeps_what_is_not_said_again():
    assert settings.merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}}) == {"a": {"b": 4, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[data]\nprobelms = 3", "Did you mean"),
        ("[transfer]\nfolds = [['gcd'], ['gcd']]", "one only"),
        ("[aha]\nstages = [3, 2]", "ascend"),
        ("[data]\ntest_trajectories = 1", "test_trajectories is 1; it must be 2 or more"),
        ("[data", "can't read the settings"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(text, words, tmp_path):
    base = RECIPES / "reproduce" / "quick.toml"
    (tmp_path / "wrong.toml").write_text(f'extends = "{base}"\n{text}\n', encoding="utf-8")
    with pytest.raises(InputError, match=words):
        settings.read_settings(tmp_path / "wrong.toml")
