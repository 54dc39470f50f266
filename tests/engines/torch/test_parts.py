"""The parts that need no model: the scheduler's order, KV memory's places, the parking lot's limits."""

from pathlib import Path

import pytest
import torch

from reflective.engines.base import Request
from reflective.engines.sequence import Running
from reflective.engines.torch.kv import KVMemory, KVShape, Parked, ParkingLot
from reflective.engines.torch.memory import untouched_zeros
from reflective.engines.torch.scheduler import Move, Scheduler

SHAPE = KVShape(layers=2, heads=3, head_size=4, dtype=torch.float32, device=torch.device("cpu"))


def waiting(id, prompt=(1, 2), tokens=()):
    """A sequence that could run."""
    return Running(id, Request(prompt), prompt, None, 10, token_ids=list(tokens))


def scheduler(max_rows, *sequences):
    made = Scheduler(max_rows)
    for sequence in sequences:
        made.submit(sequence)
    return made


def ids(sequences):
    return [sequence.id for sequence in sequences]


# ---- scheduler


def test_trajectories_enter_in_the_order_in_which_they_came():
    s = scheduler(2, waiting(0, (1,)), waiting(1, (2,)), waiting(2, (3,)))
    assert [ids(s.next_group()) for _ in range(3)] == [[0], [1], []]
    assert ids(s.running) == [0, 1] and s.waiting == 1 and s.busy


def test_those_that_share_a_prompt_enter_together_as_far_as_rows_are_free():
    s = scheduler(3, waiting(0, (1,)), waiting(1, (2,)), waiting(2, (1,)), waiting(3, (1,)), waiting(4, (1,)))
    assert ids(s.next_group()) == [0, 2, 3]
    assert s.waits_for((1,)) and s.waits_for((2,)) and not s.waits_for((3,))
    for _ in range(3):
        s.leave(0)
    assert [ids(s.next_group()) for _ in range(2)] == [[1], [4]]


def test_a_continuation_enters_alone_since_its_prefix_is_its_own():
    s = scheduler(4, waiting(0, tokens=(5,)), waiting(1), waiting(2, tokens=(6,)), waiting(3))
    assert [ids(s.next_group()) for _ in range(4)] == [[0], [1, 3], [2], []]
    assert not s.waits_for((1, 2))


def test_the_last_row_moves_into_a_row_that_becomes_free():
    s = scheduler(4, *(waiting(i) for i in range(4)))
    s.next_group()
    assert s.leave(1) == Move(3, 1) and ids(s.running) == [0, 3, 2]
    assert s.leave(2) is None and ids(s.running) == [0, 3]


def test_preempted_trajectories_wait_at_the_head_of_the_queue_in_order():
    s = scheduler(4, *(waiting(i, tokens=(i,)) for i in range(5)))
    for _ in range(4):
        s.next_group()
    assert ids(s.preempt(2)) == [2, 3] and s.max_rows == 2
    s.leave(1)
    s.leave(0)
    assert [ids(s.next_group()) for _ in range(2)] == [[2], [3]]
    assert s.waiting == 1


def test_at_least_one_row_is_left():
    s = scheduler(2, *(waiting(i) for i in range(2)))
    s.next_group()
    assert ids(s.preempt(0)) == [1] and s.max_rows == 1


def test_a_waiting_trajectory_can_be_taken_out():
    s = scheduler(1, waiting(0), waiting(1), waiting(2))
    s.next_group()
    assert s.remove_waiting(1).id == 1 and s.remove_waiting(1) is None and s.remove_waiting(0) is None
    assert s.waiting == 1


def test_the_longest_reserve_counts_those_who_run_and_those_who_wait():
    s = scheduler(1, waiting(0, (1,) * 5), waiting(1, (1,) * 9))
    assert s.longest_reserve() == 19 and Scheduler(1).longest_reserve() == 0


# ---- KV memory


def test_what_is_written_by_place_is_read_by_row_head_and_position():
    kv = KVMemory(SHAPE, rows=4, length=5)
    positions = torch.tensor([3, 0, 4])
    new = torch.randn(3, 6, 4)  # (B, 2G, D), keys then values
    kv.write(1, kv.index(positions), new)
    for row, position in enumerate(positions.tolist()):
        assert kv.keys(1, row, row + 1, 5)[0, :, position].equal(new[row, :3])
        assert kv.values(1, row, row + 1, 5)[0, :, position].equal(new[row, 3:])
    assert kv.data.count_nonzero() == new.numel(), "nothing else was touched"


def test_a_filled_row_can_be_moved_parked_and_restored():
    kv = KVMemory(SHAPE, rows=3, length=6)
    keys, values = torch.randn(2, 2, 3, 4, 4)  # of two layers, (G, N, D) each
    for layer in range(2):
        kv.fill(layer, 0, 1, keys[layer], values[layer])
    kv.move(0, 2, 5)
    assert kv.data[:, :, 2, :, :5].equal(kv.data[:, :, 0, :, :5])
    parked = kv.park(2, 5)
    kv.data[:, :, 2] = 7.0
    assert parked[1, 0, :, 1:].equal(keys[1]), "a copy, not a view"
    kv.restore(parked, 1)
    assert kv.data[:, :, 1, :, :5].equal(kv.data[:, :, 0, :, :5])


def test_a_larger_memory_takes_over_the_rows_of_a_smaller_one():
    small, large = KVMemory(SHAPE, rows=2, length=3), KVMemory(SHAPE, rows=4, length=8)
    small.data.normal_()
    large.take_over(small, 2)
    assert large.data[:, :, :2, :, :3].equal(small.data)
    assert large.data.count_nonzero() == small.data.count_nonzero()


def test_a_position_costs_a_key_and_a_value_of_every_head_and_layer():
    assert SHAPE.bytes_per_position == 2 * 2 * 3 * 4 * 4
    kv = KVMemory(SHAPE, rows=2, length=5)
    assert kv.data.numel() * 4 == 2 * 5 * SHAPE.bytes_per_position


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts pages as Linux does")
def test_memory_is_zero_and_taken_only_as_it_is_used():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    data = untouched_zeros((64, 2**20), torch.float32, torch.device("cpu"))  # 256 MiB
    assert resident() - before < 2**25
    data[3] = 1.0
    assert data[2:5].sum(-1).tolist() == [0.0, 2.0**20, 0.0]
    del data
    assert resident() - before < 2**25


# ---- parking lot


def car(size):
    return Parked(torch.zeros(size, dtype=torch.uint8))


def test_the_least_recently_used_row_makes_room():
    lot = ParkingLot(10)
    lot.put("a", car(4))
    lot.put("b", car(4))
    assert lot.get("a") is not None
    lot.put("c", car(4))
    assert lot.get("b") is None and lot.get("a") is not None and lot.get("c") is not None
    assert len(lot) == 2 and lot.used == 8


def test_a_row_larger_than_the_lot_is_not_kept():
    lot = ParkingLot(10)
    lot.put("a", car(11))
    assert len(lot) == 0 and lot.used == 0 and lot.get("a") is None


def test_a_row_put_again_counts_once():
    lot = ParkingLot(10)
    lot.put("a", car(6))
    lot.put("a", car(7))
    assert len(lot) == 1 and lot.used == 7
    lot.drop("a")
    lot.drop("a")
    assert lot.used == 0
    lot.put("b", car(3))
    lot.clear()
    assert len(lot) == 0 and lot.used == 0


@pytest.mark.parametrize("name", ["logits", "feature"])
def test_what_comes_with_a_prompt_is_counted(name):
    assert Parked(torch.zeros(4), **{name: torch.zeros(3)}).nbytes == 28
