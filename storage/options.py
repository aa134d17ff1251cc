"""How to reach an S3 server: what `s3://bucket/prefix` does not say."""

from dataclasses import dataclass
from typing import Literal

Checksums = Literal["auto", "always", "never"]
Addressing = Literal["path", "virtual"]


@dataclass(frozen=True)
class S3Options:
    endpoint: str = ""
    """Where the API reaches the server; empty: Amazon's."""
    public_endpoint: str = ""
    """Where users and workers reach it: the host of signed links; empty: the same."""
    region: str = "us-east-1"
    access_key: str = ""
    """Empty: boto3 finds keys by itself, as those of the host's role."""
    secret_key: str = ""
    addressing: Addressing = "path"
    """path: host/bucket/key; virtual: bucket.host/key."""
    checksums: Checksums = "auto"
    """Whether a signed PUT carries the SHA-256 for the server to check; auto: where a probe showed that it does."""
