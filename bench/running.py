"""The real platform that benches run on, with the times of production."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.environment import Environment
from bench.measure import python
from tests.faults.platform import TIMES, Platform, platform_running


@contextmanager
def bench_platform(root: Path, database: str, *, direct: bool = True, **changed: object) -> Iterator[Platform]:
    """Valkey, API and dispatcher with default times; `changed` are settings of the API, as `lease_seconds=20`.

    direct: signed links lead straight to the API and not through the proxy of `platform.storage`.
    """
    with platform_running(root, database) as platform:
        defaults = {name: Environment.model_fields[name.lower()].default for name in TIMES}
        wanted = {**defaults, **{name.upper(): value for name, value in changed.items()}}
        env = {f"ANNEAL_{name}": str(value) for name, value in wanted.items()}
        if direct:
            env["ANNEAL_PUBLIC_URL"] = f"http://127.0.0.1:{platform.port}"
        platform.env.update(env)
        for name in ("api", "dispatcher"):
            platform.children[name].env.update(env)
            platform.kill(name)
            platform.start(name)
        yield platform


def tiny_make(folder: Path) -> None:
    """The random Stable Diffusion base of the tests, made by a process of its own: no torch in here."""
    script = "import sys, pathlib, tests.tiny_sd as tiny; tiny.build_tiny_sd(pathlib.Path(sys.argv[1]))"
    python("-c", script, str(folder))
