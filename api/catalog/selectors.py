"""Reads of the catalog, always within one project."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NoReturn, TypeVar

from django.db.models import F, QuerySet

from api.accounts.models import Project
from api.audit.names import ref_read
from api.catalog.models import (
    KINDS,
    Adaptor,
    DatasetVersion,
    PretrainedModelVersion,
    TemplateVersion,
    VersionState,
)
from api.errors import Problem
from trainers.contract.spec import InputRef, Inputs, JobSpec

File = dict[str, Any]
Row = TypeVar("Row", DatasetVersion, PretrainedModelVersion)
MODEL_FACTS = ("max_positions", "was_causal")
"""Details of a language model that jobs are validated against."""
DATASET_FACTS = ("kind", "splits")
UNREADY_HINT = "Wait until its check is over, or name another version."


def records(project: Project, kind: str) -> QuerySet[Any]:
    """The datasets or base models of a project."""
    rows: QuerySet[Any] = KINDS[kind][0].objects.filter(project=project)
    return rows


def versions_of(records: Sequence[Any], kind: str) -> QuerySet[Any]:
    """The versions of `records`, oldest first."""
    rows: QuerySet[Any] = KINDS[kind][1].objects.filter(record__in=records).order_by("version")
    return rows


def latest_ready(versions: Sequence[Any]) -> Any:
    """The newest ready one of `versions`, which are oldest first, or None."""
    return next((version for version in reversed(versions) if version.state == VersionState.READY), None)


def adaptors_of(project: Project) -> QuerySet[Adaptor]:
    return Adaptor.objects.filter(project=project).select_related("base_model__record").prefetch_related("tags")


def dataset_version(project: Project, ref: str, field: str = "dataset") -> DatasetVersion:
    """Raises Problem if there is no dataset of that name, or no ready version of it."""
    name, number = ref_read(ref, field)
    versions = DatasetVersion.objects.select_related("record").filter(record__project=project, record__name=name)
    return _newest_ready(versions if number is None else versions.filter(version=number), ref, field)


def model_version(project: Project, ref: str, field: str = "model") -> PretrainedModelVersion:
    name, number = ref_read(ref, field)
    versions = PretrainedModelVersion.objects.select_related("record")
    versions = versions.filter(record__project=project, record__name=name)
    return _newest_ready(versions if number is None else versions.filter(version=number), ref, field)


def adaptor_of(adaptors: QuerySet[Adaptor], ref: str, field: str) -> Adaptor | None:
    """A bare name means the newest complete version, or a partial one (of a stopped job) if there is no other."""
    name, number = ref_read(ref, field)
    versions = adaptors.filter(name=name)
    if number is not None:
        return versions.filter(version=number).first()
    return versions.order_by("partial", "-version").first()


def adaptor_version(project: Project, ref: str, field: str = "adaptors") -> Adaptor:
    return adaptor_of(Adaptor.objects.filter(project=project), ref, field) or _unknown(ref, field)


def resolve_inputs(
    project: Project,
    *,
    dataset: str | None = None,
    further_datasets: Sequence[str] = (),
    class_dataset: str | None = None,
    model: str | None = None,
    adaptors: Sequence[str] = (),
) -> Inputs:
    """The immutable versions that the names refer to. Raises Problem that names the field."""
    further = [dataset_version(project, ref, f"further_datasets.{i}") for i, ref in enumerate(further_datasets)]
    return Inputs(
        dataset=_version_ref(dataset_version(project, dataset)) if dataset else None,
        further_datasets=tuple(_version_ref(version) for version in further),
        class_dataset=_version_ref(dataset_version(project, class_dataset, "class_dataset")) if class_dataset else None,
        model=_model_ref(model_version(project, model)) if model else None,
        adaptors=tuple(_adaptor_ref(adaptor_version(project, ref, f"adaptors.{i}")) for i, ref in enumerate(adaptors)),
    )


def input_files(ref: InputRef) -> list[File]:
    """[{path, size, sha256, key}] of a dataset, base model or adaptor that `resolve_inputs` returned."""
    for rows in (DatasetVersion.objects, PretrainedModelVersion.objects, Adaptor.objects):
        files = rows.filter(key=ref.key).values_list("files", flat=True).first()
        if files is not None:
            return [{**file, "key": f"{ref.key}/{file['path']}"} for file in files]
    raise Problem("input_gone", f"The files of {ref.name} are no longer recorded.", status=409)


def template_version(project: Project, ref: str, field: str = "template") -> TemplateVersion:
    """`name` is the current version, `name@3` that version. Raises Problem 404 that names `field`."""
    name, number = ref_read(ref, field)
    versions = TemplateVersion.objects.select_related("template__project")
    versions = versions.filter(template__project=project, template__name=name)
    version = versions.filter(version=F("template__version") if number is None else number).first()
    if version is None:
        message = f"there is no template {ref!r} in project {project.name!r}"
        raise Problem("not_found", f"{field}: {message}.", status=404, fields={field: [message]})
    return version


def _newest_ready(versions: QuerySet[Row], ref: str, field: str) -> Row:
    ready = versions.filter(state=VersionState.READY).order_by("-version").first()
    if ready is not None:
        return ready
    unready = versions.order_by("-version").first()
    if unready is None:
        _unknown(ref, field)
    message = f"{unready} is {unready.state}, so nothing can use it"
    if unready.reason:
        message += f": {unready.reason['message']}"
    raise Problem("version_not_ready", f"{field}: {message}", status=409, hint=UNREADY_HINT, fields={field: [message]})


def _unknown(ref: str, field: str) -> NoReturn:
    message = f"there is no {ref!r} in this project, or it has no such version"
    raise Problem("unknown_reference", f"{field}: {message}.", hint="List what is there.", fields={field: [message]})


def _version_ref(version: DatasetVersion) -> InputRef:
    details = {fact: version.details[fact] for fact in DATASET_FACTS if fact in version.details}
    if "splits" in details:
        details["splits"] = [*details["splits"]]
    return InputRef(name=str(version), key=version.key, sha256=version.digest, details=details)


def _model_ref(version: PretrainedModelVersion) -> InputRef:
    facts = {fact: version.details[fact] for fact in MODEL_FACTS if fact in version.details}
    details = {"family": version.family, **facts}
    return InputRef(name=str(version), key=version.key, sha256=version.digest, details=details)


def _adaptor_ref(adaptor: Adaptor) -> InputRef:
    return InputRef(name=str(adaptor), key=adaptor.key, sha256=adaptor.digest, details=adaptor.details)


MAX_NAMED = 5
"""Files of the dataset in an error."""


def named_files_check(spec: JobSpec) -> None:
    """Raises Problem that names the parameter, the file, and files of the dataset."""
    params = spec.params
    named = {name: str(path) for name in params.dataset_files if (path := getattr(params, name))}
    if not named or spec.inputs.dataset is None:
        return
    paths = sorted(str(file["path"]) for file in input_files(spec.inputs.dataset))
    for name, path in named.items():
        if str(PurePosixPath(path)) not in paths:
            more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
            message = f"{spec.inputs.dataset.name} has no file {path!r}; it has {', '.join(paths[:MAX_NAMED])}{more}"
            raise Problem("invalid", f"params.{name}: {message}.", fields={f"params.{name}": [message]})
