"""Who else hears a training's events, as its parameters ask: the log, TensorBoard, Weights & Biases."""

from contextlib import ExitStack

from trainers.contract.events import Warning_
from trainers.core.distributed import Processes
from trainers.core.log_lines import LogLines
from trainers.core.tracking import Reporter, TensorBoard
from trainers.core.workspace import Workspace
from trainers.optional.module import optional_module


def listeners_attach(
    work: Workspace,
    processes: Processes,
    reporter: Reporter,
    stack: ExitStack,
    *,
    tensorboard: bool,
    wandb: bool,
    wandb_project: str,
    start_step: int,
) -> None:
    """On rank 0; `stack` closes them. TrainerError MISSING_LIBRARY: wandb is not installed."""
    if processes.rank != 0:
        return
    reporter.listen(LogLines())
    if tensorboard:
        board = TensorBoard(work.out, start_step)
        stack.callback(board.close)
        reporter.listen(board)
    if wandb:
        library = optional_module("trainers.optional.wandb", "wandb")
        tracker = library.WandB(work.out, work.spec, wandb_project)
        stack.callback(tracker.close)
        reporter.listen(tracker)
        if tracker.trouble:
            reporter.say(Warning_(message=f"W&B does not take the run, it is kept in files: {tracker.trouble}"))
