"""Real `image_lora` jobs on the tiny base: made in a folder, run here or as processes."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port
from trainers.contract.events import Event, EventWriter, Failed, Step, read_events
from trainers.job import run

SHA256 = "0" * 64
WORDS = ("cat", "dog", "photo of cat", "photo of dog", "cat of dog")
QUICK = {
    "adaptor_name": "tiny",
    "max_train_steps": 3,
    "resolution": 64,
    "center_crop": True,
    "learning_rate": 1e-2,
    "log_to_tensorboard": False,
}
"""Three steps on 64 pixels, at a rate that shows."""
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["trainers.job", "trainers.methods.image_lora"])


@dataclass(frozen=True)
class Job:
    """The folders of one attempt."""

    root: Path
    cache: Path
    processes: list[ForkServerProcess] = field(default_factory=list)

    @property
    def inputs(self) -> Path:
        return self.root / "in"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def dataset(self) -> Path:
        return self.inputs / "dataset"

    @property
    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return content

    @property
    def adaptor(self) -> bytes:
        return (self.out / "adaptor" / "pytorch_lora_weights.safetensors").read_bytes()

    def spec(self, *, processes: int = 1, **params: Any) -> "Job":
        """Writes spec.json: QUICK with `params` over it."""
        resources = {"strategy": "ddp", "processes": processes} if processes > 1 else {}
        inputs = {role: {"name": role, "key": role, "sha256": SHA256} for role in ("dataset", "model")}
        content = {"name": "job", "method": "image_lora", "params": {**QUICK, **params}, "inputs": inputs}
        self.root.joinpath("spec.json").write_text(json.dumps({**content, "resources": resources}))
        return self

    def command(self, seq: int, command: str) -> None:
        draft = self.inputs / ".control"
        draft.write_text(json.dumps({"seq": seq, "command": command}))
        draft.replace(self.inputs / "control")

    def run(self) -> int:
        """In this process."""
        return run(self.root / "spec.json", self.inputs, self.out, self.cache)

    def start(self, *, world_size: int = 1, at_step: "AtStep | None" = None) -> list[ForkServerProcess]:
        """As real processes, forked from one that has torch loaded already. Rank 0 obeys `at_step` by itself."""
        port = free_port()
        for rank in range(world_size):
            process = FORKSERVER.Process(target=_rank, args=(self.root, self.cache, rank, world_size, port, at_step))
            process.start()
            self.processes.append(process)
        return self.processes[-world_size:]

    def events(self) -> list[Event]:
        path = self.out / "events.jsonl"
        return list(read_events(path)) if path.exists() else []

    def of_kind(self, kind: str) -> list[Any]:
        return [event.data for event in self.events() if event.data.kind == kind]

    def losses(self) -> dict[int, float]:
        """By step; a step that was done again after a resume counts as last done."""
        return {e.data.step: e.data.metrics["loss"] for e in self.events() if isinstance(e.data, Step)}

    def failure(self) -> Failed:
        failures: list[Failed] = self.of_kind("failed")
        assert len(failures) == 1
        return failures[0]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s; events: {self.events()[-3:]}"
            time.sleep(0.03)

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: max(self.losses(), default=0) >= step)


def job_make(root: Path, base: Path, cache: Path, *, sizes: Sequence[tuple[int, int]] = ((64, 64),) * 4) -> Job:
    """A job with one image of noise per size (width, height) and captions beside them."""
    job = Job(root, cache)
    job.dataset.mkdir(parents=True)
    (job.inputs / "model").symlink_to(base)
    for index, size in enumerate(sizes):
        image_make(job.dataset / f"{index}.png", size, seed=index)
        (job.dataset / f"{index}.txt").write_text(WORDS[index % len(WORDS)])
    return job.spec()


def image_make(path: Path, size: tuple[int, int], *, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)


@dataclass(frozen=True)
class AtStep:
    """What a job does to itself once it has reported a step, however slow or fast the test is that watches it."""

    step: int
    action: Literal["kill", "stop"]

    def attach(self, job: Job) -> None:
        emit = EventWriter.emit

        def watched(writer: EventWriter, payload: Any) -> Any:
            event = emit(writer, payload)
            if isinstance(payload, Step) and payload.step >= self.step:
                if self.action == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                job.command(1, "stop")
            return event

        EventWriter.emit = watched  # type: ignore[method-assign]


def _rank(root: Path, cache: Path, rank: int, world_size: int, port: int, at_step: AtStep | None) -> None:
    if at_step and rank == 0:
        at_step.attach(Job(root, cache))
    if world_size > 1:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    os._exit(Job(root, cache).run())


def adaptor_of(job: Job) -> dict[str, Tensor]:
    """The diffusers file that it left."""
    tensors: dict[str, Tensor] = load_file(job.out / "adaptor" / "pytorch_lora_weights.safetensors")
    return tensors


def give(job: Job, **inputs: Any) -> Job:
    """Adds to the inputs of the job's spec."""
    path = job.root / "spec.json"
    spec = json.loads(path.read_text())
    spec["inputs"] |= inputs
    path.write_text(json.dumps(spec))
    return job


def refusal(job: Job) -> str:
    """Why its parameters fail it."""
    assert job.run() == 1
    assert job.failure().reason.code == "bad_parameters"
    return job.failure().reason.message
