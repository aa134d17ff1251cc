"""The environment of a trainer: an allow-list, so that no token of ours is ever in it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|XDG_CACHE_HOME"
    r"|(OMP|MKL|OPENBLAS)_NUM_THREADS"
    r"|HF_(HOME|HUB_CACHE|HUB_OFFLINE|HUB_(DOWNLOAD|ETAG)_TIMEOUT|ENDPOINT|DATASETS_CACHE)|TRANSFORMERS_OFFLINE|TORCH_HOME"
    r"|WANDB_(PROJECT|ENTITY|MODE|BASE_URL)"
    r"|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|CUDA_(HOME|PATH|LAUNCH_BLOCKING|CACHE_PATH)|(NCCL|GLOO|NVIDIA|PYTORCH|TORCH|TRITON)_[A-Z0-9_]+",
)
PROXIES = re.compile(r"(https?|all)_proxy", re.IGNORECASE)


def trainer_environment(
    environ: Mapping[str, str], *, marks: Mapping[str, str], accelerators: Sequence[int], extra: Iterable[str] = ()
) -> dict[str, str]:
    """What a trainer sees of `environ`, with the marks that it is found by and exactly its accelerators."""
    names = set(extra)
    allowed = {name: value for name, value in environ.items() if ALLOWED.fullmatch(name.upper()) or name in names}
    return {
        **allowed,
        **marks,
        "PYTHONUNBUFFERED": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order that nvidia-smi counts in
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in accelerators),
    }


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """Passwords that the allow-list lets through, for the mask of the log: those inside proxy addresses."""
    passwords = [urlsplit(value).password for name, value in environ.items() if PROXIES.fullmatch(name)]
    return [password for password in passwords if password]
