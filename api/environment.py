"""Every environment variable of the API: read once, checked at start, one sentence per mistake."""

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
    """Field `lease_seconds` is the variable `ANNEAL_LEASE_SECONDS`. Places have no default, numbers do."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    database_url: str
    """sqlite:////absolute/file.sqlite3 or postgresql://user:password@host:5432/name."""
    database_connect_seconds: int = Field(5, ge=2)
    """Longest wait for a connection to PostgreSQL, new or out of the pool; then the request is answered 503."""
    database_check_seconds: float = Field(2, gt=0)
    """A pooled connection that does not answer its check within this time is replaced, and all idle ones with it."""
    database_silent_seconds: int = Field(8, ge=4)
    """A connection whose server acknowledges nothing for this long is dead (TCP keepalive and tcp_user_timeout)."""
    database_statement_seconds: float = Field(10, ge=0)
    """Longest statement of a request or a dispatcher's round on PostgreSQL; 0 = unlimited, as for other commands."""
    database_pool_size: int = Field(20, ge=2)
    """Most connections to PostgreSQL of one API process."""
    storage_url: str
    """Where files lie: file:///absolute/folder or s3://bucket/prefix."""
    secret_key: str = Field(min_length=32)
    """Signs links and sessions; at least 32 characters, kept secret, the same in all processes."""
    public_url: str
    """How users and workers reach the API: http://host:port."""
    broker_url: str = ""
    """redis://host:port/0; empty = no wake-up calls, workers poll."""
    allowed_hosts: str = ""
    """More host names to answer to, separated by commas; that of public_url is always allowed."""
    debug: bool = False
    """Django's debug mode; never for others to reach."""
    s3_endpoint: str = ""
    """Where the API reaches the S3 server: http://host:port; empty = Amazon's."""
    s3_public_endpoint: str = ""
    """Where users and workers reach it, the host of signed links; empty = s3_endpoint."""
    s3_region: str = "us-east-1"
    """Region of the bucket; a part of every signature."""
    s3_access_key: str = ""
    """Key that may read, write, list and delete in the bucket; empty = found as boto3 does, as a host's role."""
    s3_secret_key: str = ""
    """The secret of s3_access_key."""
    s3_addressing: Literal["path", "virtual"] = "path"
    """Addresses as path = host/bucket/key, or virtual = bucket.host/key."""
    s3_checksums: Literal["auto", "always", "never"] = "auto"
    """Whether signed PUTs carry a SHA-256 that the server checks; auto = where a probe at start shows that it does."""
    part_bytes: int = Field(64 * 2**20, ge=5 * 2**20, le=5 * 2**30)
    """Files of this size and more are uploaded in parts of it; a part that breaks off is sent again alone."""
    upload_bytes: int = Field(2**40, ge=2**20)
    """Most bytes that one request may ask signed links for."""
    project_upload_bytes: int = Field(4 * 2**40, ge=2**20)
    """Most bytes of one project's uploads that are open: not yet a version, not yet removed."""
    upload_hours: float = Field(48, gt=0)
    """Uploads that did not become a version within this time are removed; longer than link_seconds."""
    check_now_bytes: int = Field(200 * 10**6, ge=0)
    """Uploads up to this size are checked while the user waits; larger ones by the dispatcher."""
    check_memory_bytes: int = Field(2 * 2**30, ge=2**29)
    """Address space of the process that looks at uploaded files."""
    check_seconds: int = Field(300, ge=1)
    """How long looking at one upload may take, on the clock and of a processor; 1 s more for each 10 MB of it."""
    secrets_keys: str = ""
    """Fernet keys that keep project secrets, by commas: the first encrypts, all decrypt; empty = no project secrets."""
    hub_endpoints: str = "https://huggingface.co"
    """Hubs that jobs may fetch from, by commas; only what is listed here may be http or lie in a private network."""
    trusted_proxies: str = ""
    """Addresses or networks of our own proxies, by commas; only their X-Forwarded-For and -Proto are believed."""
    docs_public: bool = True
    """Whether /api/docs and /api/schema answer without a login."""
    project_creation: Literal["superuser", "anyone"] = "superuser"
    """Who may make a project; its maker becomes its admin."""
    logins_per_minute_account: int = Field(10, ge=1)
    """Tries of one user name's password in one minute, right or wrong."""
    logins_per_minute_address: int = Field(30, ge=1)
    """Tries of passwords from one address in one minute."""
    claims_per_minute: int = Field(6000, ge=1)
    """Claims with one worker token in one minute; all hosts may share one token."""
    writes_per_minute: int = Field(1200, ge=1)
    """Requests with one user token that change something, in one minute."""

    heartbeat_seconds: float = Field(15, gt=0)
    """How often an agent and a host report."""
    lease_seconds: float = Field(300, gt=0)
    """How long a claim holds after its last heartbeat."""
    self_fence_seconds: float = Field(240, gt=0)
    """A worker without an answer for this long stops its trainer by itself."""
    kill_seconds: float = Field(20, gt=0)
    """From SIGTERM to SIGKILL when a worker fences itself."""
    request_timeout_seconds: float = Field(10, gt=0)
    """Longest wait of a worker for one answer."""
    reap_grace_seconds: float = Field(30, ge=0)
    """An attempt is reaped this long after its lease ran out."""
    reap_gap_seconds: float = Field(10, gt=0)
    """When the reaper slept longer than this, all leases are first extended by the gap."""
    poll_seconds: float = Field(5, gt=0)
    """How often a host asks for work without a wake-up call."""
    no_progress_seconds: float = Field(1800, gt=0)
    """A trainer that is alive without an event for this long has failed."""
    stop_grace_seconds: float = Field(300, gt=0)
    """How long a stopped trainer may take for its checkpoint and partial adaptor."""
    stop_limit_seconds: float = Field(3600, gt=0)
    """So long after stop_grace_seconds a stop that no worker has obeyed is made in the books, as by cancel --force."""
    stuck_seconds: float = Field(12 * 3600, gt=0)
    """A live attempt whose worker reports no progress for so long has failed, whatever its heartbeats say."""
    identity_seconds: float = Field(60, ge=0)
    """How long a silent worker's identity stays its own."""
    reserve_after_seconds: float = Field(600, ge=0)
    """A job passed over for this long reserves the first worker that could hold it."""
    max_losses: int = Field(3, ge=1)
    """Losses in a row without a new checkpoint after which a job fails as poison."""
    max_tries: int = Field(6, ge=1, le=1000)
    """Tries in a row, without a new checkpoint, that fail for storage, network or worker, after which a job fails."""
    retry_first_seconds: float = Field(60, gt=0)
    """Pause of a job after the first such try; each further one is four times as long."""
    retry_longest_seconds: float = Field(3600, gt=0)
    """Longest of these pauses."""
    quarantine_failures: int = Field(3, ge=1, le=100)
    """Different jobs in a row that fail because of one worker, after which it is given no more."""
    quarantine_seconds: float = Field(600, ge=0)
    """A worker stays in quarantine at least this long before its own check may end it."""
    dispatch_seconds: float = Field(2, gt=0)
    """How often the dispatcher tops up the queues and reaps."""
    dispatch_limit: int = Field(16, ge=1)
    """Most wake-up calls waiting in one pool's queue."""
    link_seconds: int = Field(6 * 3600, ge=1, le=7 * 24 * 3600)
    """How long a signed link is good."""
    attempt_log_bytes: int = Field(2**30, ge=2**20)
    """Most bytes of one attempt's log; workers cut theirs off before."""
    stream_poll_seconds: float = Field(0.5, gt=0)
    """How often the live stream looks for new events."""
    stream_keep_alive_seconds: float = Field(15, gt=0)
    """A silent live stream says a comment this often."""
    stream_ticket_seconds: int = Field(600, ge=1)
    """How long a stream ticket opens its job's stream; it stands in addresses, so keep it short."""
    reconcile: Literal["remove", "report", "off"] = "remove"
    """What the dispatcher does with objects of the storage that no row names: remove them, only count them, nothing."""
    unreferenced_hours: float = Field(72, gt=0)
    """How long an object must have had no row before it is removed; longer than link_seconds."""
    metrics_token: str = ""
    """Who asks for /metrics must send it as bearer token; empty = anybody who reaches the API."""

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
        """What must never be shown: keys, and the passwords inside addresses."""
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
    found = settings.ANNEAL
    assert isinstance(found, Environment)
    return found


def environment_read(variables: Mapping[str, str]) -> Environment:
    """Reads ANNEAL_* from `variables`. Raises ImproperlyConfigured with one line per mistake."""
    given = {
        name: variables[PREFIX + name.upper()]
        for name in Environment.model_fields
        if PREFIX + name.upper() in variables
    }
    try:
        return Environment.model_validate(given)
    except ValidationError as error:
        lines = [_sentence(e["loc"], e["msg"], given) for e in error.errors()]
        raise ImproperlyConfigured("The settings of the API are wrong:\n  " + "\n  ".join(lines)) from None


def _sentence(loc: tuple[int | str, ...], message: str, given: dict[str, str]) -> str:
    message = message.removeprefix("Value error, ")
    if not loc:
        return message
    name = str(loc[0])
    shown = "a value that is kept secret" if name in SECRET else repr(given.get(name))
    got = f"got {shown}" if name in given else "it is not set"
    meaning = Environment.model_fields[name].description
    return f"{PREFIX}{name.upper()}: {message[:1].lower()}{message[1:]}; {got}. Meaning: {meaning}"


def _one_of_schemes(value: str, schemes: tuple[str, ...], example: str) -> str:
    if urlsplit(value).scheme not in schemes or "://" not in value:
        raise ValueError(f"expected {' or '.join(s + '://...' for s in schemes)}, for instance {example}")
    return value


def _networks(text: str) -> list[Network]:
    """Raises ValueError that names the first that is none."""
    return [ip_network(one.strip()) for one in text.split(",") if one.strip()]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _fernet_check(key: str) -> None:
    try:
        Fernet(key)
    except ValueError:
        said = "expected keys of 32 bytes in URL-safe base64; make one with `python -m api secrets_key`"
        raise ValueError(said) from None
