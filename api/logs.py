"""Logs one JSON object per line to standard error, from structlog and from Python's loggers; masks secrets.

Exceptions are lists of frames without variables, never tracebacks as text.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

TOKEN = re.compile(
    r"\b(an[twa]_|hf_|wandb_v1_|gAAAAA)[A-Za-z0-9_=-]{16,}"
    r"|\b((?:X-Amz-Signature|X-Amz-Credential|signature)=)[A-Za-z0-9%_./=-]{16,}"
)
"""Tokens of users, workers, attempts and Hubs, ciphertexts, and signatures of links, anywhere in a line."""
MIN_SECRET_LENGTH = 8
"""Shorter secrets are not masked, since they may be part of ordinary words."""
FRAMES = ExceptionDictTransformer(show_locals=False, max_frames=30)
FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers whose handlers are replaced by ours."""
SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.ExceptionRenderer(FRAMES),
]


class Masker:
    """Masks everything that looks like a token, and the given secret values."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {
            form for value in secrets if len(value) >= MIN_SECRET_LENGTH for form in (value, json.dumps(value)[1:-1])
        }
        longest_first = sorted((re.escape(form) for form in forms), key=len, reverse=True)
        self._secrets = re.compile("|".join(longest_first)) if longest_first else None

    def __call__(self, line: str) -> str:
        line = self._secrets.sub("***", line) if self._secrets else line
        return TOKEN.sub(lambda match: f"{match[1] or match[2]}***", line)

    def render(self, logger: Any, name: str, event: Any) -> str:
        """The last processor of a line."""
        rendered = structlog.processors.JSONRenderer(ensure_ascii=False)(logger, name, event)
        return self(rendered if isinstance(rendered, str) else rendered.decode())


def logging_config(level: str = "INFO", secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Returns Django's LOGGING and configures structlog likewise. `secrets`: values to mask."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, Masker(secrets).render],
        "foreign_pre_chain": SHARED,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {name: {"handlers": [], "propagate": True} for name in FOREIGN}
        | {"django.request": {"level": "ERROR"}},  # its warnings repeat those of `api.server.request_logging`
    }
