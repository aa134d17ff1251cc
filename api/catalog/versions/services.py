"""Writes of the catalog: records, uploads, versions, adaptors."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction

from api.accounts.models import Project
from api.audit.names import name_check
from api.catalog.models import (
    KINDS,
    Dataset,
    PretrainedModel,
    Upload,
    VersionState,
)
from api.catalog.versions.filelist import archive_check, files_check, stripped_digest
from api.catalog.versions.uploads import upload_open
from api.errors import Problem
from api.parallel import in_parallel
from api.upload_links import file_links, links_check, nothing_to_send, parts_count
from trainers.contract.spec import folder_digest

File = dict[str, Any]
Record = Dataset | PretrainedModel


def record_create(*, project: Project, kind: str, name: str) -> Record:
    """An empty dataset or base model. Raises Problem 409 where the name is taken."""
    rows, _ = KINDS[kind]
    name_check(name)
    try:
        with transaction.atomic():
            made: Record = rows.objects.create(project=project, name=name)
            return made
    except IntegrityError:
        said = f"{name!r} is there already; upload to it to add a version"
        raise Problem("name_taken", f"name: {said}.", status=409, fields={"name": [said]}) from None


def upload_create(
    *,
    record: Record,
    kind: str,
    files: Sequence[Mapping[str, Any]],
    unpack: bool = False,
    strip_metadata: bool = False,
) -> dict[str, Any]:
    """Signed links to PUT each file, large ones in parts. What the record has as a version needs no sending.

    `unpack`: the files are one zip, whose content the version will be. `strip_metadata`: its images lose theirs.
    """
    listed = files_check(files)
    links_check(listed)
    if unpack:
        archive_check(listed)
    _, versions = KINDS[kind]
    digest = stripped_digest(listed) if strip_metadata else folder_digest(listed)
    sizes = {"size_bytes": sum(file["size"] for file in listed), "num_parts": parts_count(listed)}
    upload = upload_open(
        Upload(
            kind=kind,
            project_id=record.project_id,
            record_id=record.id,
            files=listed,
            digest=digest,
            unpack=unpack,
            **sizes,
        )
    )
    known = versions.objects.filter(record=record, digest=digest, state=VersionState.READY).exists()
    return {"upload": upload.id, "files": in_parallel(lambda file: _upload_link(upload, file, known), listed)}


def _upload_link(upload: Upload, file: File, known: bool) -> dict[str, Any]:
    return nothing_to_send(file["path"]) if known else file_links(f"{upload.key}/{file['path']}", file)
