"""The rows of the job state machine. `transitions` and `services` move them."""

import uuid
from typing import Any

from django.db import models
from django.db.models import F, Q

from api.accounts.models import Project
from api.jobs.states import LIVE, Outcome, State, Stop


class Job(models.Model):
    """One request to run a method. The row is the job: messages only wake workers up."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="jobs")
    name = models.CharField(max_length=200)
    method = models.CharField(max_length=50)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    priority = models.IntegerField(default=0)
    pool = models.CharField(max_length=50, default="default")
    accelerators = models.PositiveSmallIntegerField(default=0)
    needs = models.CharField(max_length=400, default="0")
    """The requested accelerators as JSON: their number, or exact indices. Jobs with the same needs form one line."""
    spec = models.JSONField()
    spec_digest = models.CharField(max_length=64)
    fence = models.PositiveIntegerField(default=0)
    """Number of the last claim. A worker with a lower one is a zombie."""
    not_before = models.DateTimeField(null=True)
    """A queued job waits until then, after a failure that was not its own."""
    stop_requested = models.CharField(max_length=10, choices=Stop.choices, default=Stop.NONE, blank=True)
    losses_without_checkpoint = models.PositiveSmallIntegerField(default=0)
    failed_tries = models.PositiveSmallIntegerField(default=0)
    """Consecutive tries without a new checkpoint that failed because of the storage, the network or a worker."""
    input_bytes = models.PositiveBigIntegerField(default=0)
    """Total size of all inputs: a worker needs this much free disk space."""
    checkpoint = models.ForeignKey("Artifact", on_delete=models.SET_NULL, null=True, related_name="+")
    """The last published checkpoint, from which the job resumes."""
    control_seq = models.PositiveIntegerField(default=0)
    control_command = models.CharField(max_length=20, default="", blank=True)
    control_obeyed = models.PositiveIntegerField(default=0)
    """Highest seq of a command that the trainer has answered by an event."""
    event_seq = models.PositiveBigIntegerField(default=0)
    """Seq of the newest event, assigned under this row's lock."""
    progress = models.JSONField(null=True)
    """Data of the last step event."""
    reason = models.JSONField(null=True)
    warnings = models.JSONField(default=list)
    passed_over_since = models.DateTimeField(null=True)
    """When a worker that could take the job first had to take another one."""
    reserved_worker = models.ForeignKey("Worker", on_delete=models.SET_NULL, null=True, related_name="+")
    """Takes no lower-ranked job until it can take this one."""
    actor = models.CharField(max_length=200)
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="reruns")
    """The job that this one repeats."""
    template = models.CharField(max_length=120, blank=True, default="")
    """name@version in the request, by its name at that time."""
    template_version = models.ForeignKey(
        "catalog.TemplateVersion", on_delete=models.SET_NULL, null=True, related_name="jobs"
    )
    notes = models.TextField(blank=True, default="")
    idempotency_key = models.CharField(max_length=200, null=True)
    request_digest = models.CharField(max_length=64)
    created = models.DateTimeField()
    queued_at = models.DateTimeField()
    """When it was last queued; its place in the queue depends on `created`."""
    started = models.DateTimeField(null=True)
    ended = models.DateTimeField(null=True)
    shown_attempts: list["Attempt"]
    """Set, like the next two, by `selectors.jobs_of`."""
    shown_adaptors: list[Any]
    shown_labels: list["JobLabel"]

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "idempotency_key"], name="one_job_per_key"),)
        indexes = (
            models.Index(
                F("pool"),
                F("needs"),
                F("priority").desc(),
                F("created"),
                F("id"),
                name="job_claim",
                condition=Q(state="queued"),
            ),
            models.Index(
                F("pool"),
                F("priority").desc(),
                F("created"),
                F("id"),
                name="job_line",
                condition=Q(state="queued"),
            ),
            models.Index(fields=["project", "-created"], name="job_list"),
            models.Index(fields=["state"], name="job_state"),
            models.Index(fields=["project", "method", "-created"], name="job_method_list"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"

    @property
    def stopping(self) -> bool:
        return self.state in LIVE and bool(self.stop_requested)


class JobInput(models.Model):
    """One immutable input of a job, for "used by", the guards of deletes and the filters of lists."""

    class Role(models.TextChoices):
        DATASET = "dataset"
        MODEL = "model"
        ADAPTOR = "adaptor"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="inputs")
    role = models.CharField(max_length=10, choices=Role.choices)
    name = models.CharField(max_length=120)
    """name@version"""
    key = models.CharField(max_length=200)
    """Storage prefix of the version, which identifies it even if its name changes."""

    class Meta:
        indexes = (
            models.Index(fields=["key"], name="job_input_key"),
            models.Index(fields=["role", "name"], name="job_input_name"),
        )

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


class JobLabel(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="labels")
    name = models.CharField(max_length=50)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "name"], name="one_label_per_job"),)
        indexes = (models.Index(fields=["name"], name="job_label"),)

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A host process; its state folder stores `id`, and each start has a new `boot_id`."""

    id = models.UUIDField(primary_key=True)
    boot_id = models.UUIDField()
    host = models.CharField(max_length=200)
    pools = models.JSONField(default=list)
    slots = models.PositiveSmallIntegerField(default=1)
    accelerators = models.JSONField(default=list)
    """[{index, name, memory_bytes}]"""
    labels = models.JSONField(default=dict)
    free_slots = models.PositiveSmallIntegerField(default=0)
    last_seen = models.DateTimeField()
    wall = models.CharField(max_length=20, default="", blank=True)
    """What isolates the host's files from trainers: user, landlock, user+landlock or none; "" = older worker."""
    draining = models.BooleanField(default=False)
    gone = models.BooleanField(default=False)
    """It has shut down."""
    room_bytes = models.PositiveBigIntegerField(null=True)
    """Disk space for a job's inputs, as last reported: free or evictable, less the worker's reserve."""
    failed_jobs = models.JSONField(default=list)
    """Ids of different jobs that failed consecutively because of this worker."""
    quarantined_at = models.DateTimeField(null=True)
    """Since then it gets no jobs, until a person or its own check releases it."""
    quarantine = models.JSONField(null=True)
    """The Reason of the last failure that led to it."""

    def __str__(self) -> str:
        return f"{self.host} ({self.id})"

    @property
    def indices(self) -> list[int]:
        return [accelerator["index"] for accelerator in self.accelerators]


class Attempt(models.Model):
    """One try of one worker at one job."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    n = models.PositiveIntegerField()
    fence = models.PositiveIntegerField()
    worker = models.ForeignKey(Worker, on_delete=models.PROTECT, related_name="attempts")
    boot_id = models.UUIDField()
    claim_id = models.UUIDField(unique=True)
    token_hash = models.CharField(max_length=64, unique=True)
    accelerators = models.JSONField(default=list)
    """Indices on the worker."""
    lease_expires_at = models.DateTimeField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default="", blank=True)
    exit_code = models.IntegerField(null=True)
    reason = models.JSONField(null=True)
    finish_digest = models.CharField(max_length=64, default="", blank=True)
    """Of the recorded finish, so that repeating it succeeds."""
    checkpoint = models.ForeignKey("Artifact", on_delete=models.SET_NULL, null=True, related_name="+")
    """The checkpoint from which the attempt resumed."""
    start_step = models.PositiveIntegerField(default=0)
    last_step = models.PositiveIntegerField(null=True)
    event_seq = models.PositiveBigIntegerField(default=0)
    """Highest recorded seq of the trainer's events, which have no gaps."""
    progress_seq = models.PositiveBigIntegerField(default=0)
    progress_at = models.DateTimeField(null=True)
    phase = models.CharField(max_length=20, default="", blank=True)
    """What it does before its first step, as last reported (foundation.protocol); "" = of an older worker."""
    log_bytes = models.PositiveBigIntegerField(default=0)
    log_stored = models.PositiveBigIntegerField(default=0)
    """How many of them are in the storage, as LogPieces; the rest are LogChunks."""

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["job", "n"], name="one_attempt_per_n"),
            models.UniqueConstraint(fields=["job", "fence"], name="one_attempt_per_fence"),
            models.UniqueConstraint(fields=["job"], condition=Q(ended_at__isnull=True), name="one_live"),
        )
        indexes = (
            models.Index(fields=["lease_expires_at"], name="attempt_lease", condition=Q(ended_at__isnull=True)),
            models.Index(fields=["worker"], name="attempt_live", condition=Q(ended_at__isnull=True)),
            models.Index(fields=["outcome"], name="attempt_outcome", condition=Q(ended_at__isnull=False)),
            models.Index(fields=["id"], name="attempt_log_hot", condition=Q(log_stored__lt=F("log_bytes"))),
        )

    def __str__(self) -> str:
        return f"attempt {self.n} of {self.job_id}"

    @property
    def prefix(self) -> str:
        """Prefix of the storage keys of everything that the attempt publishes."""
        return f"jobs/{self.job_id}/{self.fence}"


class AvoidedWorker(models.Model):
    """A worker on which a job failed because of the worker: it gets the job again only if no other could take it."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="avoided")
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="avoided_by")
    code = models.CharField(max_length=50)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["job", "worker"], name="one_avoidance_per_worker"),)

    def __str__(self) -> str:
        return f"{self.job_id} avoids {self.worker_id}"


class AcceleratorLease(models.Model):
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="leases")
    index = models.PositiveSmallIntegerField()
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="leases")

    class Meta:
        constraints = (models.UniqueConstraint(fields=["worker", "index"], name="one_attempt_per_accelerator"),)

    def __str__(self) -> str:
        return f"{self.worker_id}:{self.index}"


class Manifest(models.Model):
    """The manifest of an attempt, of any method."""

    attempt = models.OneToOneField(Attempt, on_delete=models.CASCADE, primary_key=True, related_name="manifest")
    data = models.JSONField()

    def __str__(self) -> str:
        return f"manifest of attempt {self.attempt_id}"


class Event(models.Model):
    """What users follow: the trainer's events except steps, and `state` for each change of the job's state."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, null=True, related_name="events")
    attempt_seq = models.PositiveBigIntegerField(null=True)
    kind = models.CharField(max_length=20)
    time = models.DateTimeField()
    data = models.JSONField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["job", "seq"], name="one_event_per_seq"),
            models.UniqueConstraint(fields=["attempt", "attempt_seq"], name="one_event_per_attempt_seq"),
        )

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


class Metric(models.Model):
    """One point of one curve, from `step` and `validation` events."""

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="metrics")
    name = models.CharField(max_length=100)
    step = models.PositiveIntegerField()
    value = models.FloatField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["attempt", "name", "step"], name="one_value_per_step"),)

    def __str__(self) -> str:
        return f"{self.name}[{self.step}] = {self.value}"


class LogChunk(models.Model):
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="log_chunks")
    start = models.PositiveBigIntegerField()
    """Offset in bytes of the masked log."""
    bytes = models.BinaryField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["attempt", "start"], name="one_chunk_per_start"),)

    def __str__(self) -> str:
        return f"{self.attempt_id}@{self.start}"


class LogPiece(models.Model):
    """A part of the log that was moved into the storage."""

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="log_pieces")
    start = models.PositiveBigIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    key = models.CharField(max_length=200)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["attempt", "start"], name="one_piece_per_start"),)

    def __str__(self) -> str:
        return f"{self.attempt_id}@{self.start}"


class Artifact(models.Model):
    """Published files of a job; the row is written once all of them are stored."""

    class Kind(models.TextChoices):
        CHECKPOINT = "checkpoint"
        SAMPLE = "sample"
        TENSORBOARD = "tensorboard"
        OTHER = "other"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="artifacts")
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="artifacts")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    step = models.PositiveIntegerField(null=True)
    path = models.CharField(max_length=500)
    """Below the attempt's prefix: a file, or the folder of all files."""
    files = models.JSONField()
    """[{path, size, sha256}], paths below the attempt's prefix."""
    sha256 = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField()
    details = models.JSONField(default=dict)
    damaged = models.CharField(max_length=500, default="", blank=True)
    """Why a checkpoint could not be read when a job resumed; no job resumes from it any more."""
    created = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["attempt", "kind", "path"], name="one_artifact_per_path"),)
        indexes = (models.Index(fields=["job", "kind", "id"], name="artifact_list"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


class ReaperPass(models.Model):
    """One row: the time of the reaper's last pass. A gap means that no lease could have been renewed."""

    at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.at)


class Unreferenced(models.Model):
    """An object in the storage that no row names."""

    key = models.CharField(max_length=1024, unique=True)
    size_bytes = models.PositiveBigIntegerField()
    listed_at = models.DateTimeField()
    """When a pass first listed it."""

    def __str__(self) -> str:
        return self.key


class Reconciliation(models.Model):
    """One row: where the next pass over the storage starts, and totals of all passes."""

    cursor = models.CharField(max_length=1024, default="", blank=True)
    """Last key that was checked; empty = start from the beginning."""
    at = models.DateTimeField(null=True)
    removed_objects = models.PositiveBigIntegerField(default=0)
    removed_bytes = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.at)
