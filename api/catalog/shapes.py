"""What the catalog's endpoints take and give."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.errors import ErrorShape
from api.openapi import Schema
from trainers.contract.params.base import Product
from trainers.contract.spec import Contract

INPUT_ROLES = ("dataset", "further_datasets", "class_dataset", "model", "adaptors")
"""What a template or a request names; the checkpoint is the job's own affair."""
MAX_DATASETS = 20


class NameRequest(Contract):
    name: str


class FileEntry(Contract):
    path: str
    """Relative to the folder."""
    size: int = Field(strict=True)
    """Bytes."""
    sha256: str


class UploadRequest(Contract):
    files: list[FileEntry]
    unpack: bool = Field(False, strict=True)
    """The files are one zip; its content becomes the version."""
    strip_metadata: bool = Field(False, strict=True)
    """Remove GPS positions, camera data and comments from images, losslessly; their orientation stays."""


class VersionRequest(Contract):
    upload: UUID
    """What `uploads` answered."""


class TemplateContent(Contract):
    """All that a template says but its name."""

    method: str
    params: dict[str, Any] = Field({})
    """Of the method; what is left out has its default."""
    dataset: str | None = None
    """name or name@version"""
    further_datasets: list[str] = Field([], max_length=MAX_DATASETS)
    """Read after it, in this order."""
    class_dataset: str | None = None
    """Images of the class, for prior preservation."""
    model: str | None = None
    adaptors: list[str] = Field([])
    resources: dict[str, Any] | None = None
    """{accelerators: a count or exact indices, strategy}; left out: one accelerator where the pool has any."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")
    priority: int | None = Field(None, ge=-1000, le=1000)


class TemplateRequest(TemplateContent):
    name: str


class VerdictRequest(TemplateContent):
    name: str | None = None
    """Not looked at: what is checked may have no name yet."""


class VersionNumber(Contract):
    version: int = Field(ge=1, le=999_999_999)


class VerdictShape(Schema):
    valid: bool
    message: str
    """Empty where it is valid."""
    fields: dict[str, list[Any]]
    """What is wrong with which value, by its dotted path."""
    warnings: list[str]
    """Allowed, but probably not meant."""
    params: dict[str, Any] | None
    """With every default; null where it is not valid."""


class PartLinkShape(Schema):
    number: int
    """From 1."""
    url: str
    size: int
    """Bytes; the file's parts follow each other in order."""


class JoinedShape(Schema):
    path: str
    size: int
    sha256: str


class UploadLinkShape(Schema):
    path: str
    url: str | None
    """Null without parts: this content is there already, nothing to send."""
    method: str
    headers: dict[str, str]
    upload_id: str | None
    """Goes into `complete` with the ETags of the parts."""
    parts: list[PartLinkShape]
    """Of a large file: PUT each, then POST to `complete`; empty for one that goes to `url` whole."""


class UploadShape(Schema):
    upload: UUID
    files: list[UploadLinkShape]


class LinkedFileShape(Schema):
    path: str
    size: int
    sha256: str
    url: str
    """Signed link to GET it."""


class UnreadyShape(Schema):
    version: int
    state: Literal["checking", "refused"]
    reason: ErrorShape | None
    """Why it was refused."""


class NoticeShape(Schema):
    file: str
    line: int | None
    code: str
    message: str


class DatasetShape(Schema):
    """With the numbers of one version, in lists the latest ready one; null where there is none yet."""

    name: str
    version: int | None
    state: Literal["checking", "ready", "refused"] | None
    reason: ErrorShape | None
    """Why the version was refused."""
    versions: list[int]
    """Those that are ready."""
    unready: list[UnreadyShape]
    digest: str | None
    num_files: int | None
    size_bytes: int | None
    details: dict[str, Any]
    """What the check at upload found."""
    warnings: list[str]
    created: datetime


class DatasetDetailShape(DatasetShape):
    notices: list[NoticeShape]
    """What the owner should know of single files and lines; at most 200, `details.num_notices` counts all."""
    files: list[LinkedFileShape]


class PreviewItemShape(Schema):
    path: str
    caption: str | None
    width: int | None
    """Pixels, as seen."""
    height: int | None
    type: str | None
    """By content: PNG, JPEG, WEBP, BMP or TIFF."""
    thumbnail: str | None
    """Signed link to a JPEG of at most 256 pixels a side; null for rows."""
    line: int | None
    row: dict[str, Any] | None
    """Long texts are cut; null for images."""


class ModelShape(DatasetShape):
    family: str | None
    """Found in model_index.json."""


class ModelDetailShape(ModelShape):
    notices: list[NoticeShape]
    files: list[LinkedFileShape]


class TemplateShape(Schema):
    name: str
    version: int
    """Of what is shown here."""
    latest: int
    """The newest version there is."""
    method: str
    params: dict[str, Any]
    dataset: str | None
    further_datasets: list[str]
    class_dataset: str | None
    model: str | None
    adaptors: list[str]
    resources: dict[str, Any] | None
    pool: str | None
    priority: int | None
    created: datetime
    updated: datetime
    """When this version was made."""


class TemplateImportShape(TemplateShape):
    notes: list[str]
    """What was left out of the file, and why."""


class TemplateVersionShape(TemplateShape):
    actor: str
    """Who made the version."""


class MethodShape(Schema):
    method: str
    summary: str
    product: Product
    requires: list[str]
    accepts: list[str]
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of the parameters."""
