"""fit() on the smallest training: a weight that follows numbers. It never knows images from text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import PRODUCT
from trainers.contract.errors import TrainerError
from trainers.contract.events import EventWriter, Step, read_events
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.loop import Hooks, Progress, StepBatch, TrainingPlan, _Update, fit
from trainers.core.optim import Group, optimizer_of
from trainers.core.reporting import Reporter

pytestmark = pytest.mark.numeric

Micro = Sequence[float]


class Bench:
    """A training plan, and everything that fit needs, in a folder."""

    def __init__(self, folder: Path, numbers: Callable[[int], Sequence[Micro]], total_steps: int = 4) -> None:
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.saved: list[int] = []
        self.reporter = Reporter(EventWriter(folder / "events.jsonl"))
        self.processes = Processes(0, 1, torch.device("cpu"))
        groups = [Group("network", [self.weight], 0.1)]
        optimizer = optimizer_of("adamw", groups, betas=(0.9, 0.999), weight_decay=0, epsilon=1e-8)
        self.plan: TrainingPlan[Micro] = TrainingPlan(
            total_steps=total_steps,
            seed=1,
            batch=lambda step: self.batch(numbers(step)),
            loss=self.loss,
            parameters=[self.weight],
            optimizer=optimizer,
            schedule=lambda _: 1.0,
            max_grad_norm=1e9,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            checkpoint_every=2,
            evaluate_every=2,
            unit="tokens",
            save=lambda progress: self.saved.append(progress.step),
        )

    def batch(self, micro_batches: Sequence[Micro]) -> StepBatch[Micro]:
        count = sum(len(micro) for micro in micro_batches)
        return StepBatch(micro_batches, count=max(1, count), units=count * 10, epoch=0.0)

    def loss(self, micro: Micro) -> tuple[Tensor, dict[str, Tensor]]:
        values = self.weight * torch.tensor(list(micro))
        return values.sum(), {"magnitude": torch.tensor([abs(number) for number in micro]).sum()}

    def fit(self, plan: TrainingPlan[Any] | None = None, progress: Progress | None = None) -> str:
        control = Control(self.folder / "control", self.processes, self.reporter)
        try:
            return fit(
                plan or self.plan,
                progress or Progress(),
                processes=self.processes,
                control=control,
                reporter=self.reporter,
            )
        finally:
            control.close()

    def steps(self) -> list[Step]:
        return [e.data for e in read_events(self.folder / "events.jsonl") if isinstance(e.data, Step)]


def test_the_loss_is_the_mean_over_the_global_batch_however_it_is_split(tmp_path: Path) -> None:
    result = []
    for index, cut in enumerate(([[1.0, 2.0, 6.0]], [[1.0], [2.0, 6.0]], [[1.0], [2.0], [6.0]])):
        folder = tmp_path / str(index)
        folder.mkdir()
        bench = Bench(folder, lambda _, cut=cut: cut)  # type: ignore[misc]
        bench.fit()
        result.append([(step.metrics["loss"], step.metrics["grad_norm"]) for step in bench.steps()])
    assert result[0][0] == (6.0, 3.0)  # 2 x (1 + 2 + 6) / 3, and its slope
    for other in result[1:]:
        assert [loss for loss, _ in other] == pytest.approx([loss for loss, _ in result[0]], rel=PRODUCT["rtol"])
        assert [norm for _, norm in other] == pytest.approx([norm for _, norm in result[0]], rel=PRODUCT["rtol"])


def test_further_sums_are_reported_as_means(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[-1.0], [3.0]], total_steps=1)
    bench.fit(replace(bench.plan, further_metrics=("magnitude",)))
    assert bench.steps()[0].metrics["magnitude"] == 2.0


def test_the_gradient_is_clipped_to_the_global_norm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[8.0]], total_steps=1)
    sgd = torch.optim.SGD([bench.weight], lr=1.0, fused=True)
    bench.fit(replace(bench.plan, optimizer=sgd, max_grad_norm=0.5))
    assert bench.weight.item() == pytest.approx(1.5)
    assert bench.steps()[0].metrics["grad_norm"] == 8.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused_before_the_update(bad: float, tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda step: [[1.0], [bad if step == 2 else 1.0]])
    before: list[float] = []
    batch = bench.plan.batch

    def watched(step: int) -> StepBatch[Micro]:
        before.append(bench.weight.item())
        return batch(step)

    with pytest.raises(TrainerError, match="step 3 was refused before the update") as caught:
        bench.fit(replace(bench.plan, batch=watched))
    assert caught.value.reason.code == "non_finite_loss"
    assert [step.step for step in bench.steps()] == [1, 2]
    assert bench.saved == [2]
    assert bench.weight.item() == pytest.approx(1.8, abs=1e-6)  # two updates of 0.1


def test_a_refused_step_blocks_later_updates_until_it_is_read(tmp_path: Path) -> None:
    """As on an accelerator, where metrics are read every few steps: the weights wait untouched."""
    bench = Bench(tmp_path, lambda step: [[math.nan if step == 1 else 1.0]], total_steps=8)
    update = _Update(bench.plan, [0.1], bench.processes)
    for step in range(1, 6):
        update(bench.plan.batch(step - 1), step)
    assert bench.weight.item() == pytest.approx(1.9, abs=1e-6)


def test_an_overflow_in_fp16_lowers_the_loss_scale_and_training_continues(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[4.0]], total_steps=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127 * 1.9)
    assert bench.fit(replace(bench.plan, scaler=scaler)) == "succeeded"
    scales = [step.metrics["loss_scale"] for step in bench.steps()]
    assert scales[-1] < 2.0**127
    assert bench.weight.item() < 2.0


@pytest.mark.parametrize("scaled", [False, True])
def test_a_rank_without_a_sample_changes_nothing(scaled: bool, tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [], total_steps=1)
    assert bench.fit(replace(bench.plan, scaler=torch.amp.GradScaler("cpu", enabled=scaled))) == "succeeded"
    assert bench.steps()[0].metrics["loss"] == 0
    assert bench.weight.item() == 2.0


def test_checkpoints_come_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[1.0]], total_steps=5)
    bench.fit()
    assert bench.saved == [2, 4, 5]


def test_evaluation_comes_at_step_0_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    bench, evaluated, validated = Bench(tmp_path, lambda _: [[1.0]], total_steps=5), [], []

    def evaluate(step: int) -> bool:
        evaluated.append(step)
        torch.rand(100)
        return True

    def validate(step: int) -> dict[str, float]:
        validated.append(step)
        return {"loss": 1.0}

    bench.fit(replace(bench.plan, hooks=Hooks(evaluate=evaluate, validate=validate)))
    assert evaluated == validated == [0, 2, 4, 5]


def test_evaluation_does_not_change_the_random_state_of_training(tmp_path: Path) -> None:
    draws: list[list[float]] = []
    for index, evaluates in enumerate((False, True)):
        folder = tmp_path / str(index)
        folder.mkdir()
        bench, drawn = Bench(folder, lambda _: [[1.0]]), list[float]()

        def loss(micro: Micro, bench: Bench = bench, drawn: list[float] = drawn) -> tuple[Tensor, dict[str, Tensor]]:
            drawn.append(torch.rand(()).item())
            return bench.loss(micro)

        def evaluate(_step: int) -> bool:
            torch.manual_seed(99)
            return True

        bench.fit(replace(bench.plan, loss=loss, hooks=Hooks(evaluate=evaluate if evaluates else None)))
        draws.append(drawn)
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 4


def test_a_resumed_attempt_runs_only_the_remaining_steps(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[1.0]], total_steps=4)
    progress = Progress(step=3, evaluated_step=2)
    assert bench.fit(progress=progress) == "succeeded"
    assert [step.step for step in bench.steps()] == [4]
    assert progress.step == 4


def test_a_step_event_has_throughput_memory_and_time_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[1.0, 1.0]], total_steps=2)
    bench.fit()
    first, last = bench.steps()
    assert first.unit == "tokens"
    assert first.per_second > 0
    assert first.peak_memory_bytes > 10_000_000
    assert first.eta_seconds > 0
    assert last.eta_seconds == 0


def test_an_error_in_the_batches_reaches_the_caller(tmp_path: Path) -> None:
    def numbers(step: int) -> Sequence[Micro]:
        if step == 2:
            raise KeyError("row 7")
        return [[1.0]]

    with pytest.raises(KeyError, match="row 7"):
        Bench(tmp_path, numbers).fit()


def test_a_bad_step_is_refused_by_optimizers_that_cannot_skip_on_the_device(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda step: [[math.nan if step == 2 else 1.0]])
    plain = torch.optim.SGD([bench.weight], lr=0.1)
    with pytest.raises(TrainerError, match="step 3 was refused before the update"):
        bench.fit(replace(bench.plan, optimizer=plain))
    assert bench.weight.item() == pytest.approx(1.8, abs=1e-6)


def test_every_nth_step_is_logged_and_the_first_and_the_last(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [[1.0]], total_steps=7)
    bench.fit(replace(bench.plan, log_every=3))
    assert [step.step for step in bench.steps()] == [1, 3, 6, 7]


def test_a_refused_step_is_named_even_if_it_is_not_logged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda step: [[math.nan if step == 1 else 1.0]])
    with pytest.raises(TrainerError, match="step 2 was refused"):
        bench.fit(replace(bench.plan, log_every=10))


def test_after_update_is_called_with_each_step(tmp_path: Path) -> None:
    bench, observed = Bench(tmp_path, lambda _: [[1.0]]), []
    bench.fit(
        replace(
            bench.plan, hooks=Hooks(after_update=lambda step: observed.append((step, round(bench.weight.item(), 3))))
        )
    )
    assert observed == [(1, 1.9), (2, 1.8), (3, 1.7), (4, 1.6)]
