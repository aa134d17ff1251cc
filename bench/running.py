"""The real platform that benches run on, with production timings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.environment import Environment
from bench.measure import python
from tests.faults.platform import TIMES, Platform, platform_running


@contextmanager
def bench_platform(root: Path, database: str, *, direct: bool = True, **changed: object) -> Iterator[Platform]:
    """Valkey, API and dispatcher with default timings; `changed` are settings of the API such as `lease_seconds=20`.

    direct: signed links point at the API, not at the proxy of `platform.storage`.
    """
    with platform_running(root, database) as platform:
        defaults = {name: Environment.model_fields[name.lower()].default for name in TIMES}
        settings = {**defaults, **{name.upper(): value for name, value in changed.items()}}
        env = {f"ANNEAL_{name}": str(value) for name, value in settings.items()}
        if direct:
            env["ANNEAL_PUBLIC_URL"] = f"http://127.0.0.1:{platform.port}"
        platform.env.update(env)
        for name in ("api", "dispatcher"):
            platform.children[name].env.update(env)
            platform.kill(name)
            platform.start(name)
        yield platform


def tiny_make(folder: Path) -> None:
    """Builds the random Stable Diffusion base of the tests in another process, so that this one imports no torch."""
    script = "import sys, pathlib, tests.tiny_sd as tiny; tiny.build_tiny_sd(pathlib.Path(sys.argv[1]))"
    python("-c", script, str(folder))
