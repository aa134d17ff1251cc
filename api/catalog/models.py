"""Records that point to storage keys. The files of a version never change; new content is a new version."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from api.accounts.models import Project


class Named(models.Model):
    """A name that is unique in its project; subclasses add the project and the constraint."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name


class VersionedRecord(Named):
    """A dataset or base model, whose files are in its versions."""

    last_version = models.PositiveIntegerField(default=0)
    """The highest version so far: the number of a deleted version is never used again."""

    class Meta:
        abstract = True


class VersionState(models.TextChoices):
    CHECKING = "checking", "its files are being looked at; nothing can use it yet"
    READY = "ready", "its files were found good"
    REFUSED = "refused", "its files were found wrong and are gone; the reason says which"


class Version(models.Model):
    """One immutable folder of files below the storage prefix `key`."""

    State = VersionState
    record: Any
    """A foreign key to the VersionedRecord, in each subclass."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    version = models.PositiveIntegerField()
    key = models.CharField(max_length=200, unique=True)
    digest = models.CharField(max_length=64)
    """`trainers.contract.spec.folder_digest` of `files`."""
    files = models.JSONField()
    """[{path, size, sha256}], sorted by path; paths below `key`."""
    num_files = models.PositiveIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    details = models.JSONField(default=dict)
    """Results of the check at upload: images and captions of a dataset, family of a model, warnings."""
    state = models.CharField(max_length=10, choices=VersionState.choices, default=VersionState.READY)
    reason = models.JSONField(null=True)
    """Why it was refused: the body of an `api.errors.Problem`."""
    unpack = models.BooleanField(default=False)
    """While checking: `files` is one zip, whose content becomes the version."""
    check_until = models.DateTimeField(null=True)
    """A checker holds the row until then; later another one may take it."""
    check_tries = models.PositiveSmallIntegerField(default=0)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.record.name}@{self.version}"


class Dataset(VersionedRecord):
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="datasets")

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_dataset_per_name"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="dataset_list"),)


class DatasetVersion(Version):
    record = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="versions")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["record", "version"], name="one_dataset_version"),
            models.UniqueConstraint(
                fields=["record", "digest"], condition=~Q(state="refused"), name="one_dataset_digest_unrefused"
            ),
        )


class PretrainedModel(VersionedRecord):
    """A base model: a folder in diffusers format."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="pretrained_models")

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_model_per_name"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="model_list"),)


class PretrainedModelVersion(Version):
    record = models.ForeignKey(PretrainedModel, on_delete=models.PROTECT, related_name="versions")
    family = models.CharField(max_length=20, blank=True)
    """Empty until the check is done."""

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["record", "version"], name="one_model_version"),
            models.UniqueConstraint(
                fields=["record", "digest"], condition=~Q(state="refused"), name="one_model_digest_unrefused"
            ),
        )


class Upload(models.Model):
    """Announced files below a storage prefix of their own, from which a version is created."""

    class Kind(models.TextChoices):
        DATASETS = "datasets"
        MODELS = "models"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="uploads")
    record_id = models.UUIDField()
    """Of the Dataset or PretrainedModel."""
    files = models.JSONField()
    digest = models.CharField(max_length=64)
    unpack = models.BooleanField(default=False)
    """`files` is one zip; its content becomes the version."""
    size_bytes = models.BigIntegerField(default=0)
    num_parts = models.IntegerField(default=0)
    """Of the large files; each part has a signed link."""
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"upload {self.id}"

    @property
    def key(self) -> str:
        """Storage prefix of its files."""
        return f"{self.kind}/{self.id}"


class Adaptor(models.Model):
    """The product of a training job. Each job with the same adaptor name adds a version."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="adaptors")
    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    job = models.ForeignKey("jobs.Job", on_delete=models.PROTECT, related_name="adaptors")
    attempt = models.OneToOneField("jobs.Attempt", on_delete=models.PROTECT, related_name="adaptor")
    method = models.CharField(max_length=50)
    base_model = models.ForeignKey(PretrainedModelVersion, on_delete=models.PROTECT, null=True, related_name="adaptors")
    trigger_word = models.CharField(max_length=200, blank=True)
    partial = models.BooleanField(default=False)
    """The job was stopped before its last step."""
    key = models.CharField(max_length=200, unique=True)
    digest = models.CharField(max_length=64)
    files = models.JSONField()
    size_bytes = models.PositiveBigIntegerField()
    manifest = models.JSONField()
    details = models.JSONField(default=dict)
    """`InputRef.details` of the jobs that use the adaptor."""
    notes = models.TextField(blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name", "version"], name="one_adaptor_version"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="adaptor_list"),)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class AdaptorName(models.Model):
    """Counts the versions of a name, so that the number of a deleted version is never used again."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="adaptor_names")
    name = models.CharField(max_length=100)
    last_version = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_counter_per_adaptor"),)

    def __str__(self) -> str:
        return f"{self.name}@{self.last_version}"


class AdaptorTag(models.Model):
    adaptor = models.ForeignKey(Adaptor, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=50)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["adaptor", "name"], name="one_tag_per_adaptor"),)
        indexes = (models.Index(fields=["name"], name="adaptor_tag"),)

    def __str__(self) -> str:
        return self.name


class Removal(models.Model):
    """A storage prefix whose rows were deleted: a sweep after the commit deletes its files."""

    prefix = models.CharField(max_length=200, unique=True)
    """Ends with "/"."""
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.prefix


class Template(Named):
    """Named parameters and inputs of one method; a job request may override them."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="templates")
    method = models.CharField(max_length=50)
    params = models.JSONField(default=dict)
    """Only those that were set; a job adds the defaults."""
    dataset = models.CharField(max_length=120, null=True)
    """References are names, or name@version."""
    further_datasets = models.JSONField(default=list)
    class_dataset = models.CharField(max_length=120, null=True)
    model = models.CharField(max_length=120, null=True)
    adaptors = models.JSONField(default=list)
    resources: Any = models.JSONField(null=True)
    pool = models.CharField(max_length=50, null=True)
    priority = models.IntegerField(null=True)
    version = models.PositiveIntegerField(default=1)
    """Of the current content; `versions` has it and all earlier ones."""
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_template_per_name"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="template_list"),)


class TemplateVersion(models.Model):
    """A version of a template. It never changes, so that jobs of it can be explained."""

    template = models.ForeignKey(Template, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    content = models.JSONField()
    """All columns of the template except its name."""
    actor = models.CharField(max_length=200)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["template", "version"], name="one_template_version"),)

    def __str__(self) -> str:
        return f"{self.template.name}@{self.version}"


KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "datasets": (Dataset, DatasetVersion),
    "models": (PretrainedModel, PretrainedModelVersion),
}
"""The kinds of versioned records: path segment of the API, record, version."""
