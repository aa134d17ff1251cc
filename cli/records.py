"""What the API answers, typed. A field that is not listed here is kept all the same: `record.model_extra`."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ENDED = ("succeeded", "failed", "cancelled", "paused")


class Answer(BaseModel):
    """Frozen; a newer API may say more than this client knows."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Me(Answer):
    user: str
    project: str
    scopes: list[str]


class Version(Answer):
    """A dataset or a base model: the numbers are those of one version, None where there is none yet."""

    name: str
    version: int | None
    versions: list[int] = []
    digest: str | None
    num_files: int | None
    size_bytes: int | None
    details: dict[str, Any] = {}
    """What the check at upload found."""
    warnings: list[str] = []

    @property
    def ref(self) -> str:
        """`name@version`, which stays the same content for ever."""
        return f"{self.name}@{self.version}" if self.version else self.name


class Template(Answer):
    name: str
    method: str
    params: dict[str, Any]
    dataset: str | None = None
    further_datasets: list[str] = []
    class_dataset: str | None = None
    model: str | None = None
    adaptors: list[str] = []


class Reason(Answer):
    """Why a job failed: a sentence, and what may help."""

    message: str
    hint: str = ""


class AdaptorRef(Answer):
    name: str
    version: int
    partial: bool
    """The job was stopped before its last step."""

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


class Job(Answer):
    id: str
    name: str
    method: str
    state: str
    """queued, claimed, running, succeeded, failed, cancelled or paused."""
    stopping: bool
    params: dict[str, Any]
    progress: dict[str, Any] | None
    """Data of the trainer's last `step` or `progress` event."""
    reason: Reason | None
    adaptor: AdaptorRef | None
    waiting: str | None
    """Why a queued job has not started."""
    warnings: list[str]
    created: datetime

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"


class Event(Answer):
    seq: int
    """Grows by one; steps are no events of their own and carry the seq of the event before."""
    kind: str
    time: datetime | None = None
    attempt: int | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class ImageRow(Answer):
    """A sample: a file by signed link."""

    path: str
    step: int | None
    size_bytes: int
    sha256: str
    url: str | None


class Adaptor(Answer):
    name: str
    version: int
    job: str
    method: str
    base_model: str | None
    """name@version"""
    trigger_word: str
    partial: bool

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"
