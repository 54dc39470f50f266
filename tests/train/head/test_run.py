"""What is chosen behind a fitted head, on rollouts whose best choice is known; and what a run refuses, and when."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.serving import fake_server, serving_folder
from engines.test_chat import Server
from reflective import Reflective
from reflective.engines.torch.backbones.native import library
from reflective.errors import CheckpointError, InputError
from reflective.files import folder_lock
from reflective.judge.config import JudgeConfig
from reflective.judge.format import whole_response
from reflective.judge.heads.paper import SPRMHead
from reflective.models import load_checkpoint
from reflective.models.fingerprint import NOTICE
from reflective.records import Record
from reflective.shards import Place
from reflective.train import rollouts as rollouts_module
from reflective.train.head import layers as layers_module
from reflective.train.head import run as head_module
from reflective.train.head.config import HeadConfig
from reflective.train.head.fit import EXPONENTS, aucs, candidates_of, fit_exponent, fit_head, step_logits_of
from reflective.train.head.layers import HEADS, candidate_layers, fit_layers
from reflective.train.head.probe import DECAYS, Probed, _share_of_best, fit_probe, judge_probes
from reflective.train.head.run import _sprm_config, train_head
from reflective.train.head.schedule import with_scores
from reflective.train.rollouts import Rollouts, load_records, load_rollouts
from reflective.types import Verdict
from tiny import tiny_checkpoint, tiny_folder, tiny_model


def rollouts(logprobs: list[float], outcomes: list[int]) -> Rollouts:
    """Four trajectories of one step for each of two problems; hidden states of zero, so that every MLP(h) is equal."""
    count = len(outcomes)
    return Rollouts(
        features=torch.zeros(count, 4),
        logprob_features=torch.tensor([[x, x] for x in logprobs]),
        starts=list(range(count + 1)),
        problems=[i // 4 for i in range(count)],
        outcomes=outcomes,
        mean_logprobs=list(logprobs),
        closed=[True] * count,
        answers=[0] * count,
    )


def head(weight: float) -> SPRMHead:
    made = SPRMHead(4, logprob_features=True).eval()
    assert made.logprob_weight is not None
    made.logprob_weight.data = torch.tensor([weight, 0.0])
    return made


def test_an_exponent_is_taken_where_the_probability_knows_better() -> None:
    # the head prefers the unlikely ones, and they are wrong
    likely = rollouts([-1.0, -1.0, -0.1, -1.0] * 2, [0, 0, 1, 0] * 2)
    made = head(-2.0)
    chosen, tried = fit_exponent(made, likely, "geometric_mean")
    # of k = 2 one pair in two holds a right one, of k = 4 every group: (0.5 + 1) / 2
    assert chosen > 0 and tried[chosen] == 0.75 and tried[0.0] == 0.0
    assert all(tried[v] < 0.75 for v in EXPONENTS if v < chosen)
    assert made.probability_exponent == 0.0, "setting it is left to the caller"


def test_no_exponent_is_taken_where_it_gains_nothing() -> None:
    unlikely = rollouts([-0.1, -0.1, -1.0, -0.1] * 2, [0, 0, 1, 0] * 2)
    chosen, tried = fit_exponent(head(-2.0), unlikely, "geometric_mean")
    assert chosen == 0.0 and tried[0.0] == 0.75


# ---- a whole run of a tiny model, whose answers are right by chance


@pytest.fixture
def by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    graded = rollouts_module.record_of

    def chance(*args: Any, **options: Any) -> Record:
        record = graded(*args, **options)
        verdicts = [Verdict("right" if t.token_ids[0] % 2 else "wrong") for t in record.trajectories]
        chosen = [replace(t, verdict=v, answer=None) for t, v in zip(record.trajectories, verdicts, strict=True)]
        return replace(record, trajectories=tuple(chosen))

    monkeypatch.setattr(rollouts_module, "record_of", chance)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model would be an error."""
    monkeypatch.setattr(head_module, "load_checkpoint", None)


def settings(folder: Path, answers: Sequence[str] = [str(i) for i in range(8)], **changes: Any) -> HeadConfig:
    if not (folder / "model").exists():
        tiny_folder(folder / "model", step_token_ids=range(40, 100))
    rows = [{"problem": f"What is {i}?", "answer": answer} for i, answer in enumerate(answers)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table: dict[str, Any] = {
        "model": str(folder / "model"),
        "output": str(folder / "out"),
        "data": str(folder / "problems.jsonl"),
        "trajectories": 4,
        "validation_trajectories": 4,
        "max_tokens": 8,
        "epochs": 1,
        "device": "cpu",
        "look": False,
    }
    return HeadConfig(**table | changes)


def told(config: HeadConfig) -> str:
    notes: list[str] = []
    train_head(config, note=notes.append)
    return "\n".join(notes)


def test_trajectories_of_another_layer_are_not_reused(tmp_path: Path, by_chance: None) -> None:
    assert "saved:" in told(settings(tmp_path))
    again = told(settings(tmp_path, epochs=2))
    assert "sampled 0 trajectories" in again, "what decides only the fit does not ask for new ones"
    with pytest.raises(CheckpointError, match="another layer"):
        told(settings(tmp_path, layer=-3))
    assert load_checkpoint(tmp_path / "out").config.layer == -2


def test_a_server_may_sample_and_the_features_are_read_afterwards(tmp_path: Path, by_chance: None) -> None:
    model = serving_folder(tmp_path / "model")
    with fake_server(model) as server:
        config = settings(tmp_path, engine=server.url)
        assert "saved:" in told(config)
        asked = len(server.requests)
        assert asked >= 8 * 4 and "sampled 0 trajectories" in told(replace(config, epochs=2))
        assert len(server.requests) <= asked + 2, "of a run that is done, the handshake alone asks"
        with pytest.raises(CheckpointError, match="settings engine"):
            told(replace(config, engine="torch"))
    read = load_rollouts(tmp_path / "out" / "sprm-rollouts" / "train", Place(-2))
    assert len(read) == 7 * 4 and read.features.shape == (read.starts[-1], 64) and len(read.features) > 28
    assert len(read.features.unique(dim=0)) > 7 and None not in read.mean_logprobs
    made = load_checkpoint(tmp_path / "out").judge
    assert made.scores and "engine" not in made.config.provenance["trained_with"]


def test_a_server_without_token_ids_is_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("Ollama")
    with pytest.raises(InputError, match="Ollama with 'm' sends no step scores.*learns from token ids"):
        told(settings(tmp_path, engine=server.url))
    server.close()
    assert not (tmp_path / "out" / "sprm-rollouts" / "train" / "records.jsonl").exists()


def test_another_step_rule_than_that_of_the_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave --step-rule out"):
        told(settings(tmp_path, step_rule="paper"))


def test_the_step_rule_of_the_head_may_be_named(tmp_path: Path, by_chance: None) -> None:
    checkpoint = tiny_checkpoint()  # its steps are those of "reference"
    made = _sprm_config(settings(tmp_path, step_rule="reference"), checkpoint)
    assert checkpoint.config is not None and made.format.step_ids == checkpoint.config.format.step_ids


def test_problems_that_cannot_be_graded_are_left_out_before_sampling(tmp_path: Path, by_chance: None) -> None:
    said = told(settings(tmp_path, [*map(str, range(12)), "???[["], validation_share=0.3))
    assert "1 of " in said and "are left out: a gold answer that no grader reads (such as '???[['" in said


def test_only_unreadable_answers_are_refused_before_a_model_is_loaded(tmp_path: Path, unloadable: None) -> None:
    with pytest.raises(InputError, match="none of the 7 training problems can be graded"):
        told(settings(tmp_path, ["???[["] * 8))


def test_bad_data_and_a_bad_output_are_told_before_a_model_is_loaded(tmp_path: Path, unloadable: None) -> None:
    with pytest.raises(InputError, match="can't read"):
        told(settings(tmp_path, data=str(tmp_path / "none.jsonl")))
    with pytest.raises(InputError, match="Name one with --output"):
        told(settings(tmp_path, model="nano", output=None))
    with pytest.raises(InputError, match="is a file"):
        told(settings(tmp_path, output=str(tmp_path / "problems.jsonl")))


@pytest.mark.parametrize("place", ["out", "work"])
def test_a_folder_that_another_run_writes_is_refused(tmp_path: Path, place: str) -> None:
    with folder_lock(tmp_path / place), pytest.raises(InputError, match="another process"):
        told(settings(tmp_path, work=str(tmp_path / "work")))


# ---- effort auto


def test_effort_auto_is_there_at_once_with_the_risks_that_the_validation_problems_certify(
    tmp_path: Path, by_chance: None
) -> None:
    notes: list[str] = []
    config = settings(tmp_path, [str(i) for i in range(64)], validation_share=0.6, temperature=0.8)
    result = train_head(config, note=notes.append)
    model = Reflective.from_checkpoint(load_checkpoint(tmp_path / "out"))
    schedule = model.engine.judge.config.schedule
    assert schedule is not None and (schedule.k, schedule.problems) == (4, 38)  # all: too few to learn from
    assert result.risks == {f"{limit.risk:g}": limit.tokens for limit in schedule.limits} != {}
    assert any("tested on 38 problems, by risk" in note and f"{schedule.smallest_risk:g}: " in note for note in notes)
    k, strategy, _ = model.plan(effort="auto")
    assert (k, strategy.name) == (4, "auto_effort") and model.solve("What is 7?", effort="auto").effort == 4
    assert model.calibration is not None and "auto_effort" in model.engine.judge.config.calibration.strategies
    with pytest.raises(InputError, match="fitted for temperature 0.8, not 1"):
        model.plan(effort="auto", temperature=1.0)


def test_the_schedule_is_fitted_on_the_scores_that_the_model_will_give(tmp_path: Path, by_chance: None) -> None:
    told(settings(tmp_path))
    model = Reflective.from_checkpoint(load_checkpoint(tmp_path / "out"))
    folder = tmp_path / "out" / "sprm-rollouts" / "validation"
    (record,) = load_records(folder)
    logits = step_logits_of(model.engine.judge.head, load_rollouts(folder, Place(-2)))
    scored = with_scores(record, logits, model.engine.judge.aggregation)
    assert any(t.step_logits for t in scored.trajectories)
    for t in scored.trajectories:
        read = model.score(prompt_ids=record.prompt_ids, response_ids=t.token_ids)
        assert (t.step_positions, t.score) == (read.step_positions, pytest.approx(read.score, abs=2e-3))


def test_too_few_validation_problems_leave_effort_auto_to_agreement_and_say_so(tmp_path: Path, by_chance: None) -> None:
    said = told(settings(tmp_path))
    assert "no schedule for effort auto: 1 graded problems with 4 trajectories are there; a fit needs 30" in said
    assert load_checkpoint(tmp_path / "out").judge.config.schedule is None


# ---- which layer


def test_auto_means_the_papers_layer_and_two_thirds_to_five_sixths_of_the_depth(tmp_path: Path) -> None:
    config = settings(tmp_path, layer="auto")
    assert candidate_layers(config, tiny_model(num_hidden_layers=24).config) == (-2, 16, 18, 20)
    assert candidate_layers(config, tiny_model(num_hidden_layers=2).config) == (-2,), "no deeper than the paper's"
    assert candidate_layers(settings(tmp_path, layer=-3), tiny_model().config) == (-3,)
    with pytest.raises(InputError, match="whole number or 'auto'"):
        settings(tmp_path, layer="best")


def test_the_layer_that_ranks_the_validation_trajectories_best_is_taken(tmp_path: Path) -> None:
    made, outcomes = rollouts([-1.0] * 8, [0, 1, 1, 0] * 2), torch.tensor([0.0, 1.0, 1.0, 0.0] * 2)
    signal = torch.stack([outcomes, *torch.zeros(3, 8)], 1)  # (8, 4)
    noise = replace(made, features=torch.tensor([[1.0, 0, 0, 0]] * 4 + [[0.0, 0, 0, 0]] * 4))
    by_layer = {-2: noise, 2: replace(made, features=signal), 3: noise}
    sprm = JudgeConfig(4, whole_response((5,), end_ids=[0]))
    notes: list[str] = []
    config = settings(tmp_path, layer="auto", epochs=40, patience=40, lr=0.1)
    best, tried = fit_layers(config, list(by_layer), lambda place: (by_layer[place.layer],) * 2, sprm, notes.append)
    assert best.place.layer == 2 and tried == {"-2": 0.5, "2": 1.0, "3": 0.5} and best.within_problem_auc == 1.0
    assert "AUC within problems by layer  -2: 0.5000  2: 1.0000  3: 0.5000" in notes
    assert "the head reads layer 2: AUC within problems 1.0000, over all 1.0000" in notes


def test_probes_say_which_of_many_ways_get_a_head_without_a_look_at_the_validation_problems(tmp_path: Path) -> None:
    made = rollouts([-1.0] * 24, [0, 1, 1, 0] * 6)
    made = replace(made, problems=[i // 4 for i in range(24)])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(24, 4, generator=generator)
    signal = noise + 3 * torch.tensor([0.0, 1.0, 1.0, 0.0] * 6)[:, None]
    sprm = JudgeConfig(4, whole_response((5,), end_ids=[0]))
    notes: list[str] = []
    config = settings(tmp_path, layer="auto", epochs=1, start="random")

    def load(place: Place) -> tuple[Rollouts, Rollouts]:
        features = [noise, signal] if place.layer == 7 else [signal, noise] if place.layer in (3, 5, 6) else [noise] * 2
        return replace(made, features=features[0]), replace(made, features=features[1])

    best, tried = fit_layers(config, [2, 3, 4, 5, 6, 7], load, sprm, notes.append)
    assert list(tried) == ["3", "5", "6"] and best.place.layer in (3, 5, 6)
    assert notes[0].startswith("linear probes, right among mixed problems  2: 0.")
    assert sum(note.startswith("layer ") for note in notes) == HEADS["random"]
    notes.clear()
    best, tried = fit_layers(replace(config, start="linear"), [2, 3, 4, 5, 6, 7], load, sprm, notes.append)
    assert list(tried) == ["3"] and best.place.layer == 3 and best.epoch == 0, (
        "the best probe alone, of equal ones the first"
    )


def test_a_probe_judges_problems_that_it_was_not_fitted_on_and_weighs_right_and_wrong_alike() -> None:
    outcomes = [1, 0, 0, 0] * 10
    problems = [i // 4 for i in range(40)]
    lone = torch.eye(40)  # every trajectory has a direction of its own: nothing carries over
    part = replace(
        rollouts([-1.0] * 40, outcomes),
        problems=problems,
        features=lone,
        starts=list(range(41)),
        logprob_features=torch.zeros(40, 2),
    )
    areas = judge_probes(part, "last").aucs
    assert len(areas) == 10 and abs(sum(areas) / 10 - 0.5) < 0.2
    told = replace(part, features=torch.tensor(outcomes).float()[:, None])
    assert judge_probes(told, "last").aucs == [1.0] * 10 and judge_probes(told, "last").share == 0.75, (
        "best of 2 and of 4"
    )
    assert judge_probes(replace(told, outcomes=[1] * 40), "last") == Probed(DECAYS[0]), "no problem is mixed"
    wrong = replace(told, features=-told.features, outcomes=[1 - outcome for outcome in outcomes])
    assert judge_probes(wrong, "last").shares == [1.0] * 10
    ungradable = replace(told, outcomes=[1, 0, -1, -1] * 10)
    assert judge_probes(ungradable, "last").aucs == [1.0] * 10


def test_the_share_of_the_best_is_that_over_all_subsets() -> None:
    generator = random.Random(0)
    for count in (2, 3, 5, 8):
        scores, right = [generator.random() for _ in range(count)], [generator.random() < 0.5 for _ in range(count)]
        means = []
        for k in (k for k in (2, 4, 8) if k <= count):
            chosen = [max(subset, key=lambda i: scores[i]) for subset in combinations(range(count), k)]
            means.append(sum(right[i] for i in chosen) / len(chosen))
        assert _share_of_best(scores, right) == pytest.approx(sum(means) / len(means))


def learnable(problems: int, seed: int) -> Rollouts:
    """Four trajectories a problem, two steps each, of which a direction of 12 noisy ones tells who is right."""
    generator = torch.Generator().manual_seed(seed)
    outcomes = [1, 0, 0, 1] * problems
    features = torch.randn(8 * problems, 12, generator=generator)
    features[:, 0] += 2 * torch.tensor(outcomes).repeat_interleave(2)
    return replace(
        rollouts([-1.0] * len(outcomes), outcomes),
        problems=[i // 4 for i in range(len(outcomes))],
        features=5 * features + 3,
        starts=list(range(0, 2 * len(outcomes) + 1, 2)),
        logprob_features=torch.randn(8 * problems, 2, generator=generator),
    )


@pytest.mark.parametrize("logprobs", [False, True])
@pytest.mark.parametrize("aggregation", ["geometric_mean", "last"])
def test_a_head_starts_as_the_probe_and_ends_in_the_papers_form(
    tmp_path: Path, logprobs: bool, aggregation: str
) -> None:
    train, validation = learnable(30, 0), learnable(30, 1)
    config = settings(tmp_path, epochs=1, lr=1e-12, logprob_features=logprobs, plain_epochs=1)
    sprm = JudgeConfig(12, whole_response((5,), end_ids=[0]), aggregation=aggregation, logprob_features=logprobs)
    notes: list[str] = []
    head, epoch = fit_head(config, train, validation, sprm, notes.append)
    assert type(head) is SPRMHead and epoch in (0, 1) and notes[0].startswith("epoch   0  linear probe  validation AUC")
    probe = fit_probe(train, aggregation, logprobs)
    x = torch.cat([train.features, train.logprob_features], 1) if logprobs else train.features
    with torch.no_grad():
        said = head(train.features, train.logprob_features) if logprobs else head(train.features)
    torch.testing.assert_close(said, probe(x), rtol=1e-2, atol=1e-2)
    assert aucs(candidates_of(head, validation, aggregation))[0] > 0.7  # type: ignore[operator]


def test_what_the_mlp_learns_is_added_to_the_probe(tmp_path: Path) -> None:
    train = learnable(30, 0)
    bent = replace(train, features=train.features.clone())
    right = torch.tensor(train.outcomes).repeat_interleave(2)
    bent.features[:, 0] = 0
    bent.features[:, 2] -= 3
    bent.features[:, 1] = 8 * (right - 0.5) * torch.sign(bent.features[:, 2])  # nothing that is linear tells it
    sprm = JudgeConfig(12, whole_response((5,), end_ids=[0]))
    config = settings(tmp_path, epochs=60, patience=60, lr=0.01, dropout=0.1, filter="none")
    notes: list[str] = []
    head, epoch = fit_head(config, bent, bent, sprm, notes.append)
    start = float(notes[0].split("within problems ")[1].split(",")[0])
    assert epoch > 0
    assert (aucs(candidates_of(head, bent, "geometric_mean"))[0] or 0) > start + 0.05
    assert "linear probe" not in "".join(_notes_of(settings(tmp_path, start="random"), train, sprm))


def _notes_of(config: HeadConfig, train: Rollouts, sprm: JudgeConfig) -> list[str]:
    notes: list[str] = []
    fit_head(config, train, train, sprm, notes.append)
    return notes


def test_the_last_steps_of_trajectories_leave_one_without_steps_without_any() -> None:
    made = replace(
        rollouts([-1.0] * 3, [1, 0, 1]),
        features=torch.arange(20.0).view(5, 4),
        logprob_features=torch.arange(10.0).view(5, 2),
        starts=[0, 2, 2, 5],
    )
    found = made.last_steps()
    assert found.starts == [0, 1, 1, 2] and found.outcomes == made.outcomes
    assert torch.equal(found.features, made.features[[1, 4]])
    assert torch.equal(found.logprob_features, made.logprob_features[[1, 4]])


def test_where_the_last_step_decides_a_head_is_fitted_on_last_steps_alone(tmp_path: Path) -> None:
    steps = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(0))

    def fitted(first: float) -> torch.Tensor:
        made = torch.stack([steps[:, 0] * first, steps[:, 1]], 1).flatten(0, 1)  # (16, 4)
        part = replace(rollouts([-1.0] * 8, [0, 1, 1, 0] * 2), features=made, starts=list(range(0, 17, 2)))
        part = replace(part, logprob_features=torch.zeros(16, 2))
        config = settings(tmp_path, aggregation="last", epochs=3)
        sprm = JudgeConfig(4, whole_response((5,), end_ids=[0]))
        best, _ = fit_layers(config, [-2], lambda _: (part, part), sprm, lambda _: None)
        return best.head.hidden.weight

    assert torch.equal(fitted(1.0), fitted(-9.0)), "what stands before the last step changes nothing"


def test_the_aggregation_that_ranks_best_is_taken_where_it_may_be_chosen(tmp_path: Path) -> None:
    outcomes = [0, 1, 1, 0] * 2
    sign = torch.tensor([1.0 if right else -1.0 for right in outcomes])

    def of(first: float) -> Rollouts:
        """Two steps each: the first one's sign holds for this part alone, the last one's everywhere."""
        steps = torch.stack([torch.eye(4)[0] * first, torch.eye(4)[1]]) * sign[:, None, None]  # (8, 2, 4)
        made = replace(rollouts([-1.0] * 8, outcomes), features=steps.flatten(0, 1), starts=list(range(0, 17, 2)))
        return replace(made, logprob_features=torch.zeros(16, 2))

    sprm = JudgeConfig(4, whole_response((5,), end_ids=[0]))
    notes: list[str] = []
    config = settings(tmp_path, aggregation="auto", filter="none", epochs=40, patience=40, lr=0.1)
    best, tried = fit_layers(config, [-2], lambda _: (of(1.0), of(-4.0)), sprm, notes.append)
    assert best.aggregation == "last" and tried["-2 last"] == 1.0 > (tried["-2 geometric_mean"] or 0.0)
    assert notes[-1].startswith("the head reads layer -2, last of its step scores: AUC within problems 1.0000")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_run_with_layer_auto_saves_the_layer_with_a_fingerprint_of_it(
    tmp_path: Path, by_chance: None, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers_module, "DEPTHS", (1 / 3,))
    if dtype == "int8" and library() is None:
        pytest.skip("the compiled step is not built")
    config = settings(tmp_path, layer="auto", dtype=dtype)
    assert "the head reads layer" in told(config)
    made = load_checkpoint(tmp_path / "out", device="cpu")
    assert made.config is not None and made.config.fingerprint is not None and made.deviation is not None
    validation = made.config.provenance["validation"]
    assert validation.get("probes", validation.get("layers")).keys() == {"-2", "1"}
    index = made.config.layer_index(made.model.config.num_hidden_layers)
    assert made.config.fingerprint["layer"] == index and made.deviation < NOTICE
    assert "sampled 0 trajectories" in told(config), "the same command goes on"
