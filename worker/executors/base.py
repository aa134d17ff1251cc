"""Where a trainer runs is an executor's business; what it is told and how it ends is the same everywhere."""

from typing import Protocol

from worker.process.launch import Launch, Running


class Executor(Protocol):
    def start(self, launch: Launch, log: int) -> Running:
        """Starts the trainer with its output going to the descriptor `log`."""

    def is_preparing(self) -> bool:
        """Whether a trainer that can be forked had better wait for the prepared process."""
