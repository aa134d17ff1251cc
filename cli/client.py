"""The Python client: the REST API with typed results. `docs/client.md` shows each call in use."""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from cli.config import Login, login_load
from cli.downloads import adaptor_write, file_download, job_log
from cli.errors import UnreachableError
from cli.http import Client, Record, job_events, without_none
from cli.http import login as token_get
from cli.uploads import folder_upload, version_ready, zip_upload

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


SUBMIT_PAUSES_SECONDS = (0.5, 2.0)


def connect(url: str = "", token: str = "", *, user: str = "", password: str = "") -> "Anneal":
    """A client for `url` by token or by password; without arguments the login that `anneal` itself uses."""
    if user:
        return Anneal(token_get(url, user, password))
    return Anneal(Login(url, token) if url else login_load())


class Anneal:
    """One API as one user. Every call raises an ApiError by its status, or UnreachableError: see `cli/errors.py`."""

    def __init__(self, login: Login) -> None:
        self.http = Client(login)
        """For calls without a method here: `get`, `post`, `put`, `delete`, `pages` by path, in plain JSON."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.http.close()

    def me(self) -> Me:
        return Me.model_validate(self.http.get("me"))

    def datasets(self, **query: Any) -> Iterator[Version]:
        """All records, page by page on demand; `search=` and `limit=` (page size) as in docs/rest.md."""
        return map(Version.model_validate, self.http.pages("datasets", **query))

    def dataset(self, ref: str) -> Version:
        return Version.model_validate(self.http.get(f"datasets/{ref}"))

    def dataset_upload(self, name: str, path: Path) -> Version:
        """Uploads a folder or zip as the next version and waits for its check; the same content is the same version."""
        return self._upload("datasets", name, path)

    def models(self, **query: Any) -> Iterator[Version]:
        return map(Version.model_validate, self.http.pages("models", **query))

    def model(self, ref: str) -> Version:
        return Version.model_validate(self.http.get(f"models/{ref}"))

    def model_upload(self, name: str, path: Path) -> Version:
        return self._upload("models", name, path)

    def _upload(self, collection: str, name: str, path: Path) -> Version:
        send = folder_upload if path.is_dir() else zip_upload
        return Version.model_validate(version_ready(self.http, collection, send(self.http, collection, name, path)))

    def templates(self, **query: Any) -> Iterator[Template]:
        return map(Template.model_validate, self.http.pages("templates", **query))

    def template_create(self, name: str, method: str, params: Record, **more: Any) -> Template:
        """`more`: dataset, model, adaptors, resources, pool, priority."""
        body = {"name": name, "method": method, "params": params, **more}
        return Template.model_validate(self.http.post("templates", body))

    def jobs(self, **query: Any) -> Iterator[Job]:
        """Jobs, newest first; filters as in docs/rest.md: `state=`, `method=`, `search=`, ..."""
        return map(Job.model_validate, self.http.pages("jobs", **{"fields": "params", **query}))

    def job(self, ref: str) -> Job:
        return Job.model_validate(self.http.get(f"jobs/{ref}"))

    def job_submit(self, *, idempotency_key: str = "", **request: Any) -> Job:
        """Queues exactly one job even if the connection breaks: every try sends the same key, by default a new one.

        `request`: template, name, method, params, dataset, model, adaptors, resources, pool, priority.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        for pause in SUBMIT_PAUSES_SECONDS:
            try:
                return Job.model_validate(self.http.post("jobs", without_none(request), headers=headers))
            except UnreachableError:
                time.sleep(pause)
        return Job.model_validate(self.http.post("jobs", without_none(request), headers=headers))

    def job_cancel(self, ref: str) -> Job:
        return Job.model_validate(self.http.post(f"jobs/{ref}/cancel"))

    def job_pause(self, ref: str) -> Job:
        return Job.model_validate(self.http.post(f"jobs/{ref}/pause"))

    def job_resume(self, ref: str) -> Job:
        return Job.model_validate(self.http.post(f"jobs/{ref}/resume"))

    def job_follow(self, ref: str, after: int = 0) -> Iterator[Event]:
        """Events as they happen, from seq `after` + 1 until the job ends; reconnects when the connection breaks."""
        return (Event.model_validate(event) for event in job_events(self.http, ref, after) if event)

    def job_wait(self, ref: str) -> Job:
        """Waits until the job has ended and returns it, whatever its outcome."""
        for _ in self.job_follow(ref):
            pass
        return self.job(ref)

    def job_log(self, ref: str) -> str:
        return job_log(self.http, ref)

    def job_metrics(self, ref: str, name: str | None = None) -> dict[str, list[tuple[int, float]]]:
        """Curves as (step, value), by name."""
        series: Record = self.http.get(f"jobs/{ref}/metrics", name=name)["series"]
        return {curve: [(step, value) for step, value in points] for curve, points in series.items()}

    def job_samples(self, ref: str) -> list[ImageRow]:
        return [ImageRow.model_validate(row) for row in self.http.pages(f"jobs/{ref}/samples")]

    def image_download(self, image: ImageRow, target: Path) -> Path:
        """Downloads the file and verifies its digest; an incomplete file is never left behind."""
        return file_download({"url": image.url, "sha256": image.sha256}, target)

    def adaptors(self, **query: Any) -> Iterator[Adaptor]:
        return map(Adaptor.model_validate, self.http.pages("adaptors", **query))

    def adaptor(self, ref: str) -> Adaptor:
        return Adaptor.model_validate(self.http.get(f"adaptors/{ref}"))

    def adaptor_download(self, ref: str, folder: Path) -> Path:
        """Downloads every file into `folder`, verifying each digest, manifest.json last."""
        adaptor_write(self.http.get(f"adaptors/{ref}"), folder)
        return folder
