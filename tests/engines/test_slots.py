"""How step scores travel inside log-probabilities."""

import math

import pytest

from reflective.engines.vllm.slots import OFFSET, choose_slots, read_logit, read_logprob, read_mode
from reflective.errors import CheckpointError, EngineError


def test_the_highest_ids_that_no_token_has_are_chosen():
    vocabulary = {"a": 0, "b": 1, "c": 7}
    assert choose_slots(vocabulary, 10).ids == (9, 8, 6)


def test_ids_with_a_use_are_left_alone():
    assert choose_slots({"a": 0}, 8, taken=[7, 5]).ids == (6, 4, 3)


def test_ids_beyond_the_models_logits_are_no_slots():
    assert max(choose_slots({"a": 100}, 8).ids) == 7


@pytest.mark.parametrize(
    "name", ["<|reserved_special_token_{}|>", "<unused{}>", "<|extra_{}|>", "[control_{}]", "[PAD{}]"]
)
def test_reserved_tokens_stand_in_where_every_id_is_taken(name):
    vocabulary = {"a": 0, "b": 1} | {name.format(i): 2 + i for i in range(4)}
    assert choose_slots(vocabulary, 6).ids == (5, 4, 3)


def test_a_full_vocabulary_is_refused_with_what_to_do():
    with pytest.raises(CheckpointError, match=r"has 1 ids .* need 3 .*resize_token_embeddings"):
        choose_slots({"a": 0, "b": 1, "unused": 2}, 4)


@pytest.mark.parametrize("s", [-3.25, 0.0, 12.5])
def test_the_score_is_the_difference_of_two_slots_in_both_modes(s):
    lse = 17.75
    assert read_logit(OFFSET + s - lse, OFFSET - lse) == s
    assert read_logit(OFFSET + s, OFFSET) == s


def test_values_that_no_plugin_wrote_are_refused():
    for score, reference in [(-9.1, -8.7), (-math.inf, -math.inf), (math.nan, -200.0), (-9999.0, -9999.0), (-90, -200)]:
        with pytest.raises(EngineError, match="no step scores"):
            read_logit(score, reference)


def test_the_reference_tells_the_mode():
    assert read_mode(OFFSET) == "raw_logits"
    assert read_mode(OFFSET - 3.5) == "raw_logprobs"


def test_a_log_probability_is_the_value_less_the_normaliser_where_logits_come():
    assert read_logprob(-1.5, OFFSET - 9.0, OFFSET - 9.0) == -1.5  # mode raw_logprobs
    assert read_logprob(7.5, OFFSET, OFFSET + 9.0) == -1.5  # mode raw_logits
    assert read_logprob(9.5, OFFSET, OFFSET + 9.0) is None  # no log-probability is above 0
