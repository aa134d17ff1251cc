"""What of this machine a trainer reads besides its inputs: programs, libraries, the trainers' code, certificates."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from worker.settings import Settings

PROGRAMS = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/run/current-system",
    "/run/opengl-driver", "/opt/cuda*", "/opt/rocm*", "/opt/nvidia", "/opt/intel", "/opt/conda",
)  # fmt: skip
FACTS = (
    "/proc", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/localtime",
    "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/hostname", "/etc/host.conf",
    "/etc/resolv.conf", "/run/systemd/resolve", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/mime.types",
    "/etc/magic", "/etc/os-release", "/etc/locale.alias", "/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust",
    "/etc/crypto-policies", "/etc/fonts", "/etc/OpenCL", "/etc/nvidia", "/etc/vulkan", "/etc/libibverbs.d",
    "/run/nvidia-persistenced",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
ACCELERATORS = ("/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/infiniband", "/dev/dxg")
FILES_NAMED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CUDA_HOME", "CUDA_PATH")
PACKAGES = ("trainers", "formats", "foundation")
ASK = """
import importlib.util, json, sys
found = [importlib.util.find_spec(name) for name in sys.argv[1:]]
packages = [place for spec in found if spec for place in spec.submodule_search_locations or ()]
print(json.dumps({"prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix], "path": sys.path, "packages": packages}))
"""


def readable_paths(settings: Settings, environ: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Patterns by what is allowed there, as in `confine.ACCESS`. ValueError: the interpreter does not start."""
    python = _python(settings, environ)
    below, entries = _sorted(python["path"], python["prefixes"])
    named = [path for name in FILES_NAMED if (path := environ.get(name))]
    libraries = [path for path in environ.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/")]
    return {
        "run": (*PROGRAMS, *python["prefixes"], *below, *libraries, *_of_the_command(settings)),
        "read": (*FACTS, *python["packages"], *named, *map(str, settings.trainer_reads)),
        "list": tuple(entries),
    }


def _python(settings: Settings, environ: Mapping[str, str]) -> dict[str, list[str]]:
    command = [settings.trainer_python, "-c", ASK, *PACKAGES]
    try:
        result = subprocess.run(
            command, env=dict(environ), cwd=settings.state_dir, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"ANNEAL_TRAINER_PYTHON={settings.trainer_python} does not start: {error}") from error
    facts: dict[str, list[str]] = json.loads(result.stdout)
    return facts


def _sorted(path: list[str], prefixes: list[str]) -> tuple[list[str], list[str]]:
    """Entries of sys.path that hold installed packages alone, and those of which no more than the names is needed."""
    others = [entry for entry in path if entry.startswith("/") and not _inside(entry, prefixes)]
    installed = [entry for entry in others if Path(entry).name in ("site-packages", "dist-packages")]
    return installed, [entry for entry in others if entry not in installed]


def _inside(path: str, folders: list[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _of_the_command(settings: Settings) -> list[str]:
    return [word for word in settings.trainer_command if word.startswith("/") and Path(word).exists()]
