"""Which rows make up which step, for any accumulation, number of ranks and shapes."""

from collections import Counter

import pytest

from trainers.core.split import split
from trainers.image.data.batches import Plan

SPLITS = ((1, 1, 6), (2, 3, 1), (3, 1, 2), (6, 1, 1))
"""(batch size, accumulation, ranks) that all make global batches of 6."""
SHAPES = ["square"] * 11 + ["tall"] * 7 + ["wide"] * 2


def micro_batches(plan: Plan, step: int) -> list[list[range]]:
    """[rank]."""
    shapes = [plan.shapes[row] if plan.shapes else "square" for row in plan.rows(step)]
    return [plan.micro_batches(shapes)[rank :: plan.world_size] for rank in range(plan.world_size)]


def test_every_position_has_one_rank_and_micro_batch_whatever_the_split() -> None:
    for batch_size, accumulation, world_size in ((1, 1, 1), (2, 3, 2), (3, 1, 4), (5, 2, 1)):
        plan = Plan(23, batch_size, accumulation, world_size, seed=1)
        for step in range(plan.steps_per_epoch):
            shares = micro_batches(plan, step)
            assert sorted(p for share in shares for micro in share for p in micro) == list(range(len(plan.rows(step))))
            assert all(len(share) <= accumulation for share in shares)
            assert all(0 < len(micro) <= batch_size for share in shares for micro in share)


def test_an_epoch_sees_every_row_once_and_the_next_in_another_order() -> None:
    plan = Plan(10, 3, 1, 1, seed=1)
    epochs = [[row for step in range(4 * e, 4 * e + 4) for row in plan.rows(step)] for e in range(2)]
    assert plan.steps_per_epoch == 4
    assert len(plan.rows(3)) == 1
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_held_out_rows_are_chosen_by_the_seed() -> None:
    trained, held_out = split(10, 0.25, seed=1)
    assert len(held_out) == 2
    assert sorted(trained + held_out) == list(range(10))
    assert split(10, 0.25, seed=2)[1] != held_out
    assert split(10, 0.0, seed=1)[1] == []
    assert len(split(3, 0.01, seed=1)[1]) == 1


class TestShapes:
    @pytest.mark.parametrize("parts", SPLITS)
    def test_a_micro_batch_has_one_shape_and_an_epoch_sees_every_row_once(self, parts: tuple[int, int, int]) -> None:
        plan = Plan(20, *parts, seed=3, shapes=SHAPES)
        seen = [row for step in range(plan.steps_per_epoch) for row in plan.rows(step)]
        assert sorted(seen) == list(range(20))
        for step in range(plan.steps_per_epoch):
            rows = plan.rows(step)
            for micro in (micro for share in micro_batches(plan, step) for micro in share):
                assert len({SHAPES[rows[position]] for position in micro}) == 1
                assert len(micro) <= parts[0]

    def test_what_is_seen_depends_on_the_global_batch_alone(self) -> None:
        plans = [Plan(20, *parts, seed=3, shapes=SHAPES) for parts in SPLITS]
        seen = [[plan.rows(step) for step in range(12)] for plan in plans]
        assert all(rows == seen[0] for rows in seen)
        assert Plan(20, 3, 1, 1, seed=3, shapes=SHAPES).rows(0) != seen[0][0]

    def test_only_what_is_left_of_a_shape_shares_a_global_batch(self) -> None:
        plan = Plan(20, 2, 2, 1, seed=3, shapes=SHAPES)
        mixed = [len({SHAPES[row] for row in plan.rows(step)}) > 1 for step in range(plan.steps_per_epoch)]
        assert plan.steps_per_epoch == 5
        assert mixed == [False, False, False, True, True]  # 11 = 4 + 4 + 3, 7 = 4 + 3, 2

    def test_one_shape_gives_the_plain_order(self) -> None:
        plain, sorted_ = Plan(7, 2, 1, 1, seed=3), Plan(7, 2, 1, 1, seed=3, shapes=["square"] * 7)
        assert [plain.rows(step) for step in range(8)] == [sorted_.rows(step) for step in range(8)]


def test_class_images_go_with_each_batch_and_come_round_evenly() -> None:
    plan = Plan(5, 2, 1, 1, seed=3, num_class_rows=3)
    seen = [plan.class_rows(step) for step in range(9)]
    assert [len(rows) for rows in seen] == [2, 2, 1] * 3
    flat = [row for rows in seen for row in rows]
    assert set(Counter(flat).values()) == {5}
    assert all(sorted(flat[start : start + 3]) == [0, 1, 2] for start in range(0, 15, 3))
    assert [Plan(5, 1, 2, 1, seed=3, num_class_rows=3).class_rows(step) for step in range(9)] == seen
