"""How to reach an S3 server, in addition to `s3://bucket/prefix`."""

from dataclasses import dataclass
from typing import Literal

Checksums = Literal["auto", "always", "never"]
Addressing = Literal["path", "virtual"]


@dataclass(frozen=True)
class S3Options:
    endpoint: str = ""
    """URL by which the API reaches the server; empty: Amazon's."""
    public_endpoint: str = ""
    """URL by which users and workers reach it, used in signed links; empty: `endpoint`."""
    region: str = "us-east-1"
    access_key: str = ""
    """Empty: boto3's default, such as the host's role."""
    secret_key: str = ""
    addressing: Addressing = "path"
    """path: host/bucket/key; virtual: bucket.host/key."""
    checksums: Checksums = "auto"
    """Whether signed PUTs have a SHA-256 for the server to verify; auto: if a probe shows that it does."""
