"""What each strategy chooses, on trajectories written by hand."""

import pytest

from reflective import Problem, Trajectory
from reflective.search import BestOfN, Majority, Single, Weighted, get_strategy
from reflective.selection import NO_SCORE_FIRST, NO_SCORE_LOGPROB, by_score

MATH = Problem("?")


def trajectory(index, score=None, answer=None, *, reason=None, logprob=None):
    """A closed trajectory, answered where `answer` is given."""
    return Trajectory(
        index=index,
        token_ids=(7, 8),
        thinking="so",
        answer_text="" if answer is None else f"\\boxed{{{answer}}}",
        steps=(),
        score=score,
        finish_reason=reason or ("think_end" if answer is None else "eos"),
        answer=answer,
        token_logprobs=None if logprob is None else (logprob, logprob),
    )


def test_best_of_n_takes_the_highest_score():
    choice = BestOfN().choose([trajectory(0, 0.2), trajectory(1, 0.9, "5"), trajectory(2, 0.5)], MATH)
    assert (choice.index, choice.answer, choice.evidence, choice.notes) == (1, "5", 0.9, ())


def test_best_of_n_breaks_a_tie_by_the_lowest_index():
    tied = [trajectory(2, 0.7), trajectory(1, 0.7), trajectory(0, 0.1)]
    assert BestOfN().choose(tied, MATH).index == 1


def test_unfinished_trajectories_rank_below_every_finished_one():
    cut, good, unscored = trajectory(0, 0.99, reason="length"), trajectory(1, 0.01), trajectory(2)
    assert [t.index for t in by_score([cut, good, unscored])] == [1, 2, 0]
    assert BestOfN().choose([cut, good, unscored], MATH).index == 1


def test_a_scored_trajectory_beats_an_unscored_one_however_low():
    assert BestOfN().choose([trajectory(0, logprob=-0.01), trajectory(1, 0.0)], MATH).index == 1


def test_without_scores_the_mean_log_probability_decides_and_a_note_says_so():
    choice = BestOfN().choose([trajectory(0, logprob=-2.0), trajectory(1, logprob=-1.0), trajectory(2)], MATH)
    assert (choice.index, choice.evidence, choice.notes) == (1, None, (NO_SCORE_LOGPROB,))


def test_without_scores_and_log_probabilities_the_first_one_is_taken():
    choice = BestOfN().choose([trajectory(1), trajectory(0)], MATH)
    assert (choice.index, choice.notes) == (0, (NO_SCORE_FIRST,))


@pytest.mark.parametrize("strategy", [BestOfN(), Majority(), Weighted(), Single()])
def test_nothing_is_selected_when_no_thinking_was_closed(strategy):
    cut = [trajectory(i, 0.9, reason="length") for i in range(3)]
    choice = strategy.choose(cut, MATH)
    assert (choice.index, choice.answer, choice.evidence) == (None, None, None)
    assert strategy.choose([], MATH).index is None


def test_majority_counts_answers_and_gives_the_share_of_the_votes():
    voters = [trajectory(0, 0.9, "1"), trajectory(1, 0.2, "2"), trajectory(2, 0.3, "2"), trajectory(3, 0.1)]
    choice = Majority().choose(voters, MATH)
    assert (choice.index, choice.answer) == (2, "2")  # the member with the best score speaks
    assert choice.evidence == pytest.approx(2 / 3)  # the trajectory without an answer casts no vote


def test_majority_breaks_a_tie_by_the_best_score_then_by_the_lowest_index():
    scored = [trajectory(0, 0.2, "1"), trajectory(1, 0.4, "2")]
    assert Majority().choose(scored, MATH).answer == "2"
    unscored = [trajectory(0, None, "1"), trajectory(1, None, "2")]
    assert Majority().choose(unscored, MATH).answer == "1"


def test_weighted_adds_scores_and_unscored_votes_weigh_nothing():
    voters = [trajectory(0, 0.9, "1"), trajectory(1, 0.3, "2"), trajectory(2, 0.3, "2"), trajectory(3, None, "2")]
    choice = Weighted().choose(voters, MATH)
    assert choice.answer == "1" and choice.evidence == pytest.approx(0.9 / 1.5)


def test_weighted_without_any_score_counts_votes_and_says_so():
    voters = [trajectory(0, None, "1"), trajectory(1, None, "2"), trajectory(2, None, "2")]
    choice = Weighted().choose(voters, MATH)
    assert choice.answer == "2" and choice.evidence is None and "counted one" in choice.notes[0]


def test_a_vote_without_voters_shows_the_best_closed_trajectory():
    choice = Majority().choose([trajectory(0, 0.1), trajectory(1, 0.8)], MATH)
    assert (choice.index, choice.answer) == (1, None) and "no vote" in choice.notes[0]


def test_single_takes_the_first_one_only():
    assert Single().choose([trajectory(0, 0.1, "1"), trajectory(1, 0.9, "2")], MATH).answer == "1"
    assert Single().budget(32) == 1


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="auto, best_of_n, majority, weighted, logprob, single"):
        get_strategy("beams")
