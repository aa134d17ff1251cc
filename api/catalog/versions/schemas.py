"""Request and response schemas of datasets and base models."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field

from api.catalog.models import PretrainedModel, VersionState
from api.environment import environment
from api.errors import ErrorShape
from api.openapi import Schema
from api.storage import storage
from api.upload_links import UploadLinkShape
from trainers.contract.spec import Contract

Caption = Annotated[str, Field(max_length=10_000)]


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


class CaptionsRequest(Contract):
    captions: dict[str, Caption] = Field(min_length=1, max_length=10_000)
    """New text by the image's path; the others keep theirs."""
    column: str = Field("", max_length=100)
    """Of the metadata, where it has several; left out: the one that captions are read from."""


class JoinedShape(Schema):
    path: str
    size: int
    sha256: str


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

    @classmethod
    def of(cls, version: Any) -> Self:
        return cls(version=version.version, state=version.state, reason=version.reason)


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


class ModelShape(DatasetShape):
    family: str | None
    """Found in model_index.json."""


class ModelDetailShape(ModelShape):
    notices: list[NoticeShape]
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

    @classmethod
    def of(cls, item: Mapping[str, Any], prefix: str) -> Self:
        """`item`: of the preview that a check wrote below the storage prefix `prefix`."""
        values = {**dict.fromkeys(cls.model_fields), **item}
        if values["thumbnail"]:
            values["thumbnail"] = signed_link(prefix + values["thumbnail"])
        return cls.model_validate(values)


def version_summary(record: Any, version: Any, versions: Sequence[Any]) -> DatasetShape:
    """`version` of `record`, or nulls if it has none yet; `versions`: all of them, oldest first."""
    return _summary_class(record).model_validate(_summary_values(record, version, versions))


def version_detail(record: Any, version: Any, versions: Sequence[Any]) -> DatasetShape:
    """With all notices and files; a version that is not ready has none."""
    values = _summary_values(record, version, versions)
    is_ready = version is not None and version.state == VersionState.READY
    values["notices"] = version.details.get("notices", []) if is_ready else []
    values["files"] = linked_files(version.key, version.files) if is_ready else []
    return _detail_class(record).model_validate(values)


def linked_files(key: str, files: Sequence[Mapping[str, Any]]) -> list[LinkedFileShape]:
    """The files below the storage prefix `key`, each with a signed link."""
    return [LinkedFileShape(**file, url=signed_link(f"{key}/{file['path']}")) for file in files]


def signed_link(key: str) -> str:
    return storage().presign_get(key, expires_seconds=environment().link_seconds).url


def _summary_class(record: Any) -> type[DatasetShape]:
    return ModelShape if isinstance(record, PretrainedModel) else DatasetShape


def _detail_class(record: Any) -> type[DatasetShape]:
    return ModelDetailShape if isinstance(record, PretrainedModel) else DatasetDetailShape


def _summary_values(record: Any, version: Any, versions: Sequence[Any]) -> dict[str, Any]:
    details = dict(version.details) if version else {}
    details.pop("notices", None)
    columns = ("version", "state", "reason", "digest", "num_files", "size_bytes")
    return {
        **{column: getattr(version, column, None) for column in columns},
        "name": record.name,
        "versions": [each.version for each in versions if each.state == VersionState.READY],
        "unready": [UnreadyShape.of(each) for each in versions if each.state != VersionState.READY],
        "family": getattr(version, "family", None) or None,
        "warnings": details.pop("warnings", []),
        "details": details,
        "created": version.created if version else record.created,
    }
