"""Who else hears a training's events, as its parameters ask: the log, TensorBoard, Weights & Biases."""

from contextlib import ExitStack

from trainers.contract.events import Warning_
from trainers.core.context import JobContext
from trainers.core.log_lines import LogLines
from trainers.optional.module import optional_module


def listeners_attach(
    job: JobContext,
    stack: ExitStack,
    *,
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    start_step: int,
) -> None:
    """On rank 0; `stack` closes them. TrainerError MISSING_LIBRARY: wandb is not installed."""
    if job.processes.rank != 0:
        return
    job.reporter.listen(LogLines())
    if tensorboard:
        board = optional_module("trainers.optional.tensorboard", "train").TensorBoard(job.out, start_step)
        stack.callback(board.close)
        job.reporter.listen(board)
    if wandb:
        library = optional_module("trainers.optional.wandb", "wandb")
        tracker = library.WandB(job.out, job.spec, wandb_project)
        stack.callback(tracker.close)
        job.reporter.listen(tracker)
        if tracker.trouble:
            job.reporter.emit(Warning_(message=f"W&B does not take the run, it is kept in files: {tracker.trouble}"))
