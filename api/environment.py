"""All environment variables of the API, validated at start with one sentence per mistake."""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from api.databases import Limits
from storage import S3Options
from trainers.contract.params.addresses import origin_of

PREFIX = "ANNEAL_"
Network = IPv4Network | IPv6Network
SECRET = ("metrics_token", "secret_key", "database_url", "broker_url", "s3_secret_key", "secrets_keys")


class Environment(BaseModel):
    """Field `lease_seconds` is the variable `ANNEAL_LEASE_SECONDS`. Locations have no default, numbers do."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    database_url: str
    """sqlite:////absolute/file.sqlite3 or postgresql://user:password@host:5432/name."""
    database_connect_seconds: int = Field(5, ge=2)
    """Timeout for a connection to PostgreSQL, new or from the pool; the request then fails with 503."""
    database_check_seconds: float = Field(2, gt=0)
    """Timeout of the check of a pooled connection; after it this connection and all idle ones are replaced."""
    database_silent_seconds: int = Field(8, ge=4)
    """A connection is closed if its server acknowledges nothing for this long (TCP keepalive and tcp_user_timeout)."""
    database_statement_seconds: float = Field(10, ge=0)
    """Timeout of a statement of requests and the dispatcher on PostgreSQL; 0 = unlimited, as for other commands."""
    database_pool_size: int = Field(20, ge=2)
    """Maximum number of connections to PostgreSQL of one API process."""
    storage_url: str
    """Location of all files: file:///absolute/folder or s3://bucket/prefix."""
    secret_key: str = Field(min_length=32)
    """Signs links and sessions; a secret of at least 32 characters, the same in all processes."""
    public_url: str
    """URL by which users and workers reach the API: http://host:port."""
    broker_url: str = ""
    """redis://host:port/0; empty = no wake-up calls, workers poll."""
    allowed_hosts: str = ""
    """Further accepted host names, separated by commas; that of public_url is always accepted."""
    debug: bool = False
    """Django's debug mode; never for a server that others can reach."""
    s3_endpoint: str = ""
    """URL by which the API reaches the S3 server: http://host:port; empty = Amazon's."""
    s3_public_endpoint: str = ""
    """URL by which users and workers reach it, used in signed links; empty = s3_endpoint."""
    s3_region: str = "us-east-1"
    """Region of the bucket; part of every signature."""
    s3_access_key: str = ""
    """Access key with the rights to read, write, list and delete; empty = boto3's default, such as the host's role."""
    s3_secret_key: str = ""
    """Secret of s3_access_key."""
    s3_addressing: Literal["path", "virtual"] = "path"
    """Form of URLs: path = host/bucket/key, virtual = bucket.host/key."""
    s3_checksums: Literal["auto", "always", "never"] = "auto"
    """Whether signed PUTs have a SHA-256 for the server to verify; auto = if a probe at start shows that it does."""
    part_bytes: int = Field(64 * 2**20, ge=5 * 2**20, le=5 * 2**30)
    """Files of at least this size are uploaded in parts of it; an interrupted part is repeated alone."""
    upload_bytes: int = Field(2**40, ge=2**20)
    """Maximum number of bytes for which one request may get signed links."""
    project_upload_bytes: int = Field(4 * 2**40, ge=2**20)
    """Maximum number of bytes of a project's open uploads: not yet a version, not yet removed."""
    upload_hours: float = Field(48, gt=0)
    """Uploads from which no version was created within this time are removed; longer than link_seconds."""
    check_now_bytes: int = Field(200 * 10**6, ge=0)
    """Uploads up to this size are checked during the request; larger ones by the dispatcher."""
    check_memory_bytes: int = Field(2 * 2**30, ge=2**29)
    """Address space of the process that checks uploaded files."""
    check_seconds: int = Field(300, ge=1)
    """Timeout of the check of an upload, in wall-clock and CPU time; plus 1 s for each 10 MB."""
    secrets_keys: str = ""
    """Fernet keys of project secrets, separated by commas: the first encrypts, all decrypt; empty = no secrets."""
    hub_endpoints: str = "https://huggingface.co"
    """Hubs that jobs may download from, separated by commas; only these may use http or be in a private network."""
    trusted_proxies: str = ""
    """Addresses or networks of trusted proxies, separated by commas; headers X-Forwarded-* of others are ignored."""
    docs_public: bool = True
    """Whether /api/docs and /api/schema are available without a login."""
    project_creation: Literal["superuser", "anyone"] = "superuser"
    """Who may create projects; the creator becomes admin of the project."""
    logins_per_minute_account: int = Field(10, ge=1)
    """Maximum number of login attempts per user name and minute, successful or not."""
    logins_per_minute_address: int = Field(30, ge=1)
    """Maximum number of login attempts per client address and minute."""
    claims_per_minute: int = Field(6000, ge=1)
    """Maximum number of claims per worker token and minute; all hosts may share one token."""
    writes_per_minute: int = Field(1200, ge=1)
    """Maximum number of requests other than reads per user token and minute."""

    heartbeat_seconds: float = Field(15, gt=0)
    """Interval of the heartbeats of attempts and hosts."""
    lease_seconds: float = Field(300, gt=0)
    """Duration of an attempt's lease after its last heartbeat."""
    self_fence_seconds: float = Field(240, gt=0)
    """A worker that gets no response from the API for this long stops its trainer."""
    kill_seconds: float = Field(20, gt=0)
    """Time from SIGTERM to SIGKILL when a worker stops its trainer for lack of a response."""
    request_timeout_seconds: float = Field(10, gt=0)
    """Timeout of a worker's request."""
    reap_grace_seconds: float = Field(30, ge=0)
    """An attempt is ended as lost this long after its lease has expired."""
    reap_gap_seconds: float = Field(10, gt=0)
    """If the dispatcher has paused for longer than this, all leases are first extended by the pause."""
    poll_seconds: float = Field(5, gt=0)
    """Interval at which a host polls for jobs without a wake-up call."""
    no_progress_seconds: float = Field(1800, gt=0)
    """A running trainer without an event for this long has failed."""
    stop_grace_seconds: float = Field(300, gt=0)
    """Time limit for a stopped trainer to write its checkpoint and partial adaptor."""
    stop_limit_seconds: float = Field(3600, gt=0)
    """A stop that no worker has executed this long after stop_grace_seconds is recorded as by cancel --force."""
    stuck_seconds: float = Field(12 * 3600, gt=0)
    """An attempt without reported progress for this long has failed, whatever its heartbeats report."""
    identity_seconds: float = Field(60, ge=0)
    """How long the identity of a silent worker stays reserved for it."""
    reserve_after_seconds: float = Field(600, ge=0)
    """A job that was passed over for this long reserves the first worker that could run it."""
    max_losses: int = Field(3, ge=1)
    """Number of lost attempts in a row without a new checkpoint after which a job fails."""
    max_tries: int = Field(6, ge=1, le=1000)
    """Number of failures in a row of storage, network or worker without a new checkpoint after which a job fails."""
    retry_first_seconds: float = Field(60, gt=0)
    """Pause of a job after the first such failure; each further pause is four times as long."""
    retry_longest_seconds: float = Field(3600, gt=0)
    """Maximum of these pauses."""
    quarantine_failures: int = Field(3, ge=1, le=100)
    """Number of different jobs in a row that fail because of a worker, after which it is quarantined."""
    quarantine_seconds: float = Field(600, ge=0)
    """Minimum duration of a quarantine before the worker's own check may end it."""
    dispatch_seconds: float = Field(2, gt=0)
    """Interval at which the dispatcher fills the queues and ends lost attempts."""
    dispatch_limit: int = Field(16, ge=1)
    """Maximum number of waiting wake-up calls per pool."""
    link_seconds: int = Field(6 * 3600, ge=1, le=7 * 24 * 3600)
    """Validity of a signed link."""
    attempt_log_bytes: int = Field(2**30, ge=2**20)
    """Maximum size of an attempt's log; workers truncate theirs before."""
    stream_poll_seconds: float = Field(0.5, gt=0)
    """Interval at which live streams poll for new events."""
    stream_keep_alive_seconds: float = Field(15, gt=0)
    """Interval of comments in an idle live stream."""
    stream_ticket_seconds: int = Field(600, ge=1)
    """Validity of the ticket of a stream; keep it short, since tickets are part of URLs."""
    reconcile: Literal["remove", "report", "off"] = "remove"
    """What the dispatcher does with stored objects that no row refers to: remove them, only count them, or nothing."""
    unreferenced_hours: float = Field(72, gt=0)
    """How long an object must be without a row before it is removed; longer than link_seconds."""
    metrics_token: str = ""
    """Bearer token that requests of /metrics must send; empty = available to everybody."""

    @field_validator("database_url")
    @classmethod
    def _database_known(cls, value: str) -> str:
        return _one_of_schemes(value, ("sqlite", "postgresql", "postgres"), "sqlite:////var/lib/anneal/anneal.sqlite3")

    @field_validator("storage_url")
    @classmethod
    def _storage_has_scheme(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError(f"expected an address such as file:///var/lib/anneal/storage, got {value!r}")
        return value

    @field_validator("public_url")
    @classmethod
    def _public_is_http(cls, value: str) -> str:
        return _one_of_schemes(value, ("http", "https"), "http://127.0.0.1:8000").rstrip("/")

    @field_validator("broker_url")
    @classmethod
    def _broker_is_redis(cls, value: str) -> str:
        return value and _one_of_schemes(value, ("redis", "rediss"), "redis://127.0.0.1:6379/0")

    @field_validator("secrets_keys")
    @classmethod
    def _secrets_keys_are_fernet(cls, value: str) -> str:
        for key in _words(value):
            _fernet_check(key)
        return value

    @field_validator("hub_endpoints")
    @classmethod
    def _hubs_are_addresses(cls, value: str) -> str:
        for url in _words(value):
            origin_of(url)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: str) -> str:
        _networks(value)
        return value

    @model_validator(mode="after")
    def _lease_outlives_trainer(self) -> Self:
        dead_by = self.self_fence_seconds + self.kill_seconds + 2 * self.request_timeout_seconds
        if dead_by >= self.lease_seconds:
            raise ValueError(
                f"ANNEAL_LEASE_SECONDS={self.lease_seconds:g} must be more than self_fence_seconds "
                f"({self.self_fence_seconds:g}) + kill_seconds ({self.kill_seconds:g}) + 2 x request_timeout_seconds "
                f"({self.request_timeout_seconds:g}) = {dead_by:g}, or two trainers could run one job; raise the lease"
            )
        if self.heartbeat_seconds + self.request_timeout_seconds >= self.self_fence_seconds:
            raise ValueError(
                f"ANNEAL_SELF_FENCE_SECONDS={self.self_fence_seconds:g} must be more than heartbeat_seconds "
                f"({self.heartbeat_seconds:g}) + request_timeout_seconds ({self.request_timeout_seconds:g}), or one "
                "slow answer stops a trainer"
            )
        return self

    @model_validator(mode="after")
    def _upload_outlives_its_links(self) -> Self:
        if self.upload_hours * 3600 <= self.link_seconds:
            raise ValueError(
                f"ANNEAL_UPLOAD_HOURS={self.upload_hours:g} must be more than link_seconds ({self.link_seconds} s), or "
                "an upload could be removed while its links are still good; raise upload_hours"
            )
        return self

    @model_validator(mode="after")
    def _unreferenced_outlive_links(self) -> Self:
        if self.unreferenced_hours * 3600 <= self.link_seconds:
            raise ValueError(
                f"ANNEAL_UNREFERENCED_HOURS={self.unreferenced_hours:g} must be more than link_seconds "
                f"({self.link_seconds} s), or a file could be removed that a job is about to publish; raise it"
            )
        return self

    @model_validator(mode="after")
    def _s3_keys_come_together(self) -> Self:
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            raise ValueError("ANNEAL_S3_ACCESS_KEY and ANNEAL_S3_SECRET_KEY belong together; set both or none")
        return self

    @property
    def database_limits(self) -> Limits:
        return Limits(
            connect_seconds=self.database_connect_seconds,
            check_seconds=self.database_check_seconds,
            silent_seconds=self.database_silent_seconds,
            statement_seconds=self.database_statement_seconds,
            pool_size=self.database_pool_size,
        )

    @property
    def s3_options(self) -> S3Options:
        return S3Options(
            endpoint=self.s3_endpoint,
            public_endpoint=self.s3_public_endpoint,
            region=self.s3_region,
            access_key=self.s3_access_key,
            secret_key=self.s3_secret_key,
            addressing=self.s3_addressing,
            checksums=self.s3_checksums,
        )

    @property
    def hosts(self) -> list[str]:
        named = [host.strip() for host in self.allowed_hosts.split(",") if host.strip()]
        return [*named, urlsplit(self.public_url).hostname or "", "127.0.0.1", "localhost", "[::1]"]

    @property
    def secret_values(self) -> list[str]:
        """Values that must never be shown: keys, and passwords in URLs."""
        values = [getattr(self, name) for name in SECRET if "://" not in getattr(self, name)]
        passwords = [urlsplit(getattr(self, name)).password or "" for name in SECRET]
        return [*values, *map(unquote, passwords), *passwords, *self.fernet_keys]

    @property
    def fernet_keys(self) -> list[str]:
        return _words(self.secrets_keys)

    @property
    def hubs(self) -> list[str]:
        return [url.rstrip("/") for url in _words(self.hub_endpoints)]

    @property
    def trusted_networks(self) -> list[Network]:
        return _networks(self.trusted_proxies)

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")


def environment() -> Environment:
    """The settings of this process."""
    current = settings.ANNEAL
    assert isinstance(current, Environment)
    return current


def environment_read(variables: Mapping[str, str]) -> Environment:
    """Reads ANNEAL_* from `variables`. Raises ImproperlyConfigured with one line per mistake."""
    values = {
        name: variables[PREFIX + name.upper()]
        for name in Environment.model_fields
        if PREFIX + name.upper() in variables
    }
    try:
        return Environment.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(e["loc"], e["msg"], values) for e in error.errors()]
        raise ImproperlyConfigured("The settings of the API are wrong:\n  " + "\n  ".join(lines)) from None


def _sentence(loc: tuple[int | str, ...], message: str, values: dict[str, str]) -> str:
    message = message.removeprefix("Value error, ")
    if not loc:
        return message
    name = str(loc[0])
    shown = "a value that is kept secret" if name in SECRET else repr(values.get(name))
    got = f"got {shown}" if name in values else "it is not set"
    meaning = Environment.model_fields[name].description
    return f"{PREFIX}{name.upper()}: {message[:1].lower()}{message[1:]}; {got}. Meaning: {meaning}"


def _one_of_schemes(value: str, schemes: tuple[str, ...], example: str) -> str:
    if urlsplit(value).scheme not in schemes or "://" not in value:
        raise ValueError(f"expected {' or '.join(s + '://...' for s in schemes)}, for instance {example}")
    return value


def _networks(text: str) -> list[Network]:
    """Raises ValueError that names the first invalid one."""
    return [ip_network(word) for word in _words(text)]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _fernet_check(key: str) -> None:
    try:
        Fernet(key)
    except ValueError:
        message = "expected keys of 32 bytes in URL-safe base64; make one with `python -m api secrets_key`"
        raise ValueError(message) from None
