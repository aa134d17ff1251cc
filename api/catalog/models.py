"""Records that point at storage keys. A version's files never change; a new content is a new version."""

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from api.accounts.models import Project


class Named(models.Model):
    """A name that is unique in its project."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name


class VersionState(models.TextChoices):
    CHECKING = "checking", "its files are being looked at; nothing can use it yet"
    READY = "ready", "its files were found good"
    REFUSED = "refused", "its files were found wrong and are gone; the reason says which"


class Version(models.Model):
    """One immutable folder of files below the storage prefix `key`."""

    State = VersionState

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
    """What the check at upload found: images and captions of a dataset, family of a model, warnings."""
    state = models.CharField(max_length=10, choices=VersionState.choices, default=VersionState.READY)
    reason = models.JSONField(null=True)
    """Why it was refused: an error body as `api.errors.Problem` gives it."""
    unpack = models.BooleanField(default=False)
    """While it is checked: `files` is one zip, whose content becomes the version."""
    check_until = models.DateTimeField(null=True)
    """A checker that lives holds the row until then; later another one may take it."""
    check_tries = models.PositiveSmallIntegerField(default=0)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True


class Dataset(Named):
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="datasets")
    last_version = models.PositiveIntegerField(default=0)
    """The highest number ever given: that of a deleted version is never given again."""

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

    def __str__(self) -> str:
        return f"{self.record.name}@{self.version}"


class PretrainedModel(Named):
    """A base model: a folder in diffusers format."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="pretrained_models")
    last_version = models.PositiveIntegerField(default=0)
    """The highest number ever given: that of a deleted version is never given again."""

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_model_per_name"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="model_list"),)


class PretrainedModelVersion(Version):
    record = models.ForeignKey(PretrainedModel, on_delete=models.PROTECT, related_name="versions")
    family = models.CharField(max_length=20, blank=True)
    """Empty until the check found it."""

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["record", "version"], name="one_model_version"),
            models.UniqueConstraint(
                fields=["record", "digest"], condition=~Q(state="refused"), name="one_model_digest_unrefused"
            ),
        )

    def __str__(self) -> str:
        return f"{self.record.name}@{self.version}"


class Upload(models.Model):
    """Files that a user said will come, below a storage prefix of their own. `versions` turns it into a version."""

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
    """Of the large files; each has a signed link."""
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"upload {self.id}"

    @property
    def key(self) -> str:
        """Storage prefix that its files lie under."""
        return f"{self.kind}/{self.id}"


class Adaptor(models.Model):
    """What a training job made. Each job of the same adaptor name adds a version; none is overwritten."""

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
    """Becomes `InputRef.details` where the adaptor is used."""
    notes = models.TextField(blank=True, default="")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name", "version"], name="one_adaptor_version"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="adaptor_list"),)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class AdaptorName(models.Model):
    """Counts the versions of a name, so that the number of a deleted one is never given again."""

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
    """A storage prefix whose rows are gone: its files are deleted by a sweep after the commit."""

    prefix = models.CharField(max_length=200, unique=True)
    """Ends with "/"."""
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.prefix


class Template(Named):
    """Named parameters of one method with what they are used on; a job is this plus what its request overrides."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="templates")
    method = models.CharField(max_length=50)
    params = models.JSONField(default=dict)
    """Only what was set; defaults are filled in when a job is made."""
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
    """Of what stands here; `versions` holds it and all before it."""
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_template_per_name"),)
        indexes = (models.Index(fields=["project", "-created", "-id"], name="template_list"),)


class TemplateVersion(models.Model):
    """What a template said once. Never changed: a job that came of it can always be explained."""

    template = models.ForeignKey(Template, on_delete=models.CASCADE, related_name="versions")
    version = models.PositiveIntegerField()
    content = models.JSONField()
    """All columns of the template but its name, as they were."""
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
"""What has versions by upload: the address, the record, its version."""
