"""Projects, their members, and the tokens of users and workers."""

import uuid

from django.conf import settings
from django.db import models


class Project(models.Model):
    """The border of visibility: every dataset, model, template, job and adaptor belongs to exactly one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)
    created = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    class Role(models.TextChoices):
        READER = "reader"
        WRITER = "writer"
        ADMIN = "admin"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.WRITER)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "user"], name="one_membership"),)

    def __str__(self) -> str:
        return f"{self.user} in {self.project} as {self.role}"


class Invitation(models.Model):
    """A membership that the user has not accepted yet. It grants nothing."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=10, choices=Membership.Role.choices)
    invited_by = models.CharField(max_length=200)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "user"], name="one_invitation"),)

    def __str__(self) -> str:
        return f"invitation of {self.user} to {self.project} as {self.role}"


class Token(models.Model):
    """A bearer token. The plain text is shown once; only its SHA-256 is stored."""

    class Kind(models.TextChoices):
        USER = "user"
        WORKER = "worker"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    name = models.CharField(max_length=100)
    sha256 = models.CharField(max_length=64, unique=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="tokens")
    """Null only for worker tokens, which serve the jobs of every project."""
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, related_name="tokens")
    """Null for worker tokens."""
    scopes = models.JSONField(default=list)
    """Of user tokens: read, write, admin; scopes beyond the role of the membership have no effect."""
    login = models.BooleanField(default=False)
    """Created with a password: may create other tokens, and ends when the password changes."""
    created = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used = models.DateTimeField(null=True)
    live_scopes: frozenset[str] = frozenset()
    """Not a column: set to `scopes_now` at authentication."""

    class Meta:
        constraints = (
            models.CheckConstraint(
                name="user_token_has_user_and_project",
                condition=models.Q(kind="worker", user__isnull=True)
                | models.Q(kind="user", user__isnull=False, project__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} token {self.name}"


class RateCount(models.Model):
    """Hits of one rate limit in one minute, shared by all processes of the API. See `limits`."""

    key = models.CharField(primary_key=True, max_length=64)
    """SHA-256 of action and client, so that attempted user names cannot be read."""
    minute = models.BigIntegerField(db_index=True)
    """Since 1970."""
    count = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.count} in minute {self.minute}"


class ProjectSecret(models.Model):
    """A value for attempts that the API never returns. Written and read by `secrets` only."""

    class Kind(models.TextChoices):
        HUB = "hub", "token of a Hugging Face Hub: HF_TOKEN"
        WANDB = "wandb", "key of Weights & Biases: WANDB_API_KEY"
        GENERIC = "generic", "anything else: ANNEAL_SECRET_<NAME>"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="secrets")
    name = models.CharField(max_length=50)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    ciphertext = models.TextField()
    """Fernet; see `secrets_cipher`."""
    created = models.DateTimeField(auto_now_add=True)
    rotated = models.DateTimeField(null=True)
    """When the value was last replaced."""

    class Meta:
        constraints = (models.UniqueConstraint(fields=["project", "name"], name="one_secret_per_name"),)

    def __str__(self) -> str:
        return f"{self.kind} secret {self.name}"

    @property
    def variable(self) -> str:
        """The environment variable of the trainer that holds it."""
        fixed = {self.Kind.HUB: "HF_TOKEN", self.Kind.WANDB: "WANDB_API_KEY"}
        return fixed.get(self.Kind(self.kind), f"ANNEAL_SECRET_{self.name.upper()}")
