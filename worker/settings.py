"""Every environment variable of the worker, read once per process and checked at start."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PREFIX = "ANNEAL_"


class Frozen(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


T = TypeVar("T", bound=Frozen)


class Settings(Frozen):
    """Field `api_url` is the variable `ANNEAL_API_URL`. Places have no default, numbers do."""

    api_url: str = Field(pattern=r"^https?://")
    """Where the API answers: http://host:port."""
    worker_token: str = Field(min_length=1, repr=False)
    """Token `anw_...` that lets this host claim jobs."""
    state_dir: Path
    """Folder of this worker: identity, attempts, cache. Two hosts never share one."""
    broker_url: str = Field("", repr=False)
    """redis://host:port/0 for wake-up calls; empty = polling alone."""
    pools: tuple[str, ...] = Field(("default",), min_length=1)
    """Pools that this worker serves, separated by commas."""
    slots: int = Field(1, ge=1, le=64)
    """Attempts that run at once."""
    accelerators: str = Field("auto", pattern=r"^(auto|none|\d+(,\d+)*)$")
    """auto = what the driver shows; none = the CPU; or indices such as 0,1."""
    labels: dict[str, str] = {}
    """What is told of this worker, as zone=a,owner=lab."""
    poll_seconds: float | None = Field(None, ge=0)
    """How often to ask for work; empty = what the API says; 0 = only when called, which needs a broker."""
    cache_bytes: int = Field(100 * 1024**3, ge=0)
    """Room for datasets and base models; the least recently used go first."""
    trainer_cache_bytes: int = Field(50 * 1024**3, ge=0)
    """Room for what trainers computed from inputs (latents, embeddings, tokens); the least recently used files go."""
    min_free_bytes: int = Field(1024**3, ge=0)
    """Bytes of the disk that stay free: with less the worker claims nothing, and inputs must fit beside it."""
    trainer_python: str = sys.executable
    """Interpreter that has the trainers installed."""
    trainer_command: tuple[str, ...] = ()
    """Replaces `python -m trainers.run`, for tests and wrappers; split like a shell does. Gets `--serve` as well."""
    trainer_environment: tuple[str, ...] = ()
    """More environment variables that trainers may see, separated by commas."""
    prefork: bool = True
    """Whether jobs that need no start of their own are forked from a process that has imported the trainers' libraries
    already; 0 = each trainer starts anew. See docs/worker.md."""
    trainer_wall: Literal["auto", "landlock", "user", "off"] = "auto"
    """What keeps trainers off this host's files: auto = the best that works here; landlock or user = that one, or the
    worker does not start; off = nothing. See docs/worker.md."""
    trainer_user: str = ""
    """User (name or number) that trainers run as; the worker must be root. Empty = the worker's own and Landlock."""
    trainer_reads: tuple[Path, ...] = ()
    """More files and folders that trainers may read, separated by commas."""
    trainer_writes: tuple[Path, ...] = ()
    """More folders that trainers of every project may read and write, separated by commas."""
    trainer_memory_bytes: int = Field(0, ge=0)
    """Memory for data of each trainer process (RLIMIT_DATA; not the accelerator's); 0 = twice the machine's."""
    trainer_processes: int = Field(16_384, ge=64)
    """Processes and threads of the trainers' user (RLIMIT_NPROC); the kernel exempts root."""
    trainer_file_bytes: int = Field(512 * 1024**3, ge=1024**2)
    """Largest file that a trainer may write (RLIMIT_FSIZE)."""
    trainer_out_bytes: int = Field(1024**4, ge=1024**2)
    """Bytes of all files that one attempt may hold in out/ and in its folder for temporary files; past it, it fails."""
    trainer_out_files: int = Field(200_000, ge=1000)
    """Files and folders that one attempt may hold there; past it, it fails."""
    trainer_open_files: int = Field(65_536, ge=256)
    """Files that a trainer process may hold open (RLIMIT_NOFILE)."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port of the Prometheus text; empty = none."""
    metrics_address: str = "127.0.0.1"
    """Address that the Prometheus text is served on."""
    backoff_seconds: float = Field(0.5, gt=0)
    """First pause before a failed request is repeated; it doubles up to 30 s."""
    transfer_attempts: int = Field(8, ge=1)
    """How often the transfer of one input is tried before the attempt fails."""
    drain_seconds: float | None = Field(None, ge=0)
    """Longest wait for a trainer's checkpoint when this host is told to stop; empty = the job's stop_grace_seconds."""
    resident_models: int = Field(1, ge=0, le=16)
    """Base models that stay in memory after a sampling job, each in a trainer of its own; all must fit; 0 = none."""
    resident_seconds: float = Field(600, gt=0)
    """How long such a trainer waits for the next job of its base model before it ends."""
    log_bytes: int = Field(256 * 1024**2, ge=1024**2)
    """Most bytes of one attempt's log: beyond it the middle is left out, the end is kept."""
    refused_bytes: int = Field(20 * 1024**3, ge=0)
    """Room for results that the API did not take; the oldest go first, the newest always stays."""
    tensorboard_seconds: float = Field(20, gt=0)
    """Between two looks at the TensorBoard files of a running job, in its first minutes; later they become rarer."""
    publish_seconds: float = Field(900, gt=0)
    """How long results are offered to the storage after the trainer's end before the attempt fails."""

    @field_validator("pools", "trainer_environment", "trainer_reads", "trainer_writes", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [word.strip().partition("=") for word in value.split(",") if word.strip()]
        if wrong := [name for name, equals, _ in pairs if not equals]:
            raise ValueError(f"expected name=value, separated by commas, got {wrong[0]!r}")
        return {name: label for name, _, label in pairs}

    @field_validator("trainer_command", mode="before")
    @classmethod
    def _shell_words(cls, value: object) -> object:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator("api_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.absolute()

    @model_validator(mode="after")
    def _can_hear_of_work(self) -> Self:
        if self.poll_seconds == 0 and not self.broker_url:
            raise ValueError("ANNEAL_POLL_SECONDS=0 turns polling off, which needs ANNEAL_BROKER_URL")
        return self


class ConsumerSettings(Frozen):
    """What the Celery consumer, the host's child, needs."""

    broker_url: str = Field("memory://", repr=False)
    wake_socket: Path = Path("wake.sock")
    host_pid: int = 0
    """The host that started the consumer; 0 = started by hand."""


def settings_read(environ: Mapping[str, str]) -> Settings:
    """The settings of `python -m worker`. Raises ValueError with one line per mistake."""
    return _read(Settings, environ)


def consumer_settings_read(environ: Mapping[str, str]) -> ConsumerSettings:
    return _read(ConsumerSettings, environ)


def _read(settings_class: type[T], environ: Mapping[str, str]) -> T:
    values = {
        name: environ[PREFIX + name.upper()]
        for name in settings_class.model_fields
        if environ.get(PREFIX + name.upper())
    }
    try:
        return settings_class.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(_line(fault["loc"], fault["msg"]) for fault in error.errors())) from error


def _line(place: tuple[int | str, ...], message: str) -> str:
    variable = f"{PREFIX}{str(place[0]).upper()}: " if place else ""
    return f"{variable}{message.removeprefix('Value error, ')}"
