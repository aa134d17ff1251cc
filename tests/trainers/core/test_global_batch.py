"""The rows of a step stay what they were when the number of processes changes."""

import pytest

from trainers.core.global_batch import GlobalBatch
from trainers.image.data.batches import Plan
from trainers.text.data.batches import TextPlan


@pytest.mark.parametrize(
    ("before", "after", "accumulation"),
    [
        (GlobalBatch(2, 2, 1), GlobalBatch(2, 2, 2), 1),
        (GlobalBatch(1, 1, 4), GlobalBatch(1, 1, 1), 4),
        (GlobalBatch(3, 4, 2), GlobalBatch(3, 4, 4), 2),
        (GlobalBatch(3, 2, 2), GlobalBatch(3, 2, 2), 2),
    ],
)
def test_each_step_has_the_same_rows_on_another_world_size(
    before: GlobalBatch, after: GlobalBatch, accumulation: int
) -> None:
    resumed = after.with_rows(before.rows)
    assert (resumed.batch_size, resumed.world_size) == (after.batch_size, after.world_size)
    assert resumed.accumulation == accumulation
    parts = [(batch.batch_size, batch.accumulation, batch.world_size) for batch in (before, resumed)]
    first, second = (Plan(53, *sizes, seed=1, shapes=["square", "tall"] * 26 + ["wide"]) for sizes in parts)
    assert first.steps_per_epoch == second.steps_per_epoch
    assert all(first.rows(step) == second.rows(step) for step in range(2 * first.steps_per_epoch))
    one, other = (TextPlan(53, *sizes, seed=1) for sizes in parts)
    assert one.steps_per_epoch == other.steps_per_epoch
    assert all(one.documents(step) == other.documents(step) for step in range(2 * one.steps_per_epoch))


def test_rows_that_the_processes_cannot_make_are_refused_naming_both() -> None:
    batch = GlobalBatch(2, 3, 4)
    with pytest.raises(ValueError, match="4 processes with batches of 2 take 8 rows at a time") as refused:
        batch.with_rows(12)
    assert "global batch of 12" in str(refused.value)
    assert batch.world_sizes(12) == [1, 2, 3, 6]
    assert all(GlobalBatch(2, 1, count).with_rows(12).rows == 12 for count in batch.world_sizes(12))
    assert str(GlobalBatch(2, 6, 1)) == "global batch 12 = batch size 2 x accumulation 6 x 1 process"
