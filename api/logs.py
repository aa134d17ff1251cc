"""One JSON object a line on standard error, from structlog and from Python's own loggers alike; secrets are masked.

An exception is a list of frames without their variables, never a traceback as text.
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
"""Tokens of users, workers, attempts, Hubs; ciphertexts; signatures of links: wherever in a line they stand."""
SHORTEST = 8
"""Known values that are shorter are left: masking them would tear ordinary words."""
FRAMES = ExceptionDictTransformer(show_locals=False, max_frames=30)
FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that brought handlers of their own: their lines become ours."""
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
    """Hides the shapes of tokens, and the values that are known to be secret here."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        forms = {form for value in known if len(value) >= SHORTEST for form in (value, json.dumps(value)[1:-1])}
        longest_first = sorted((re.escape(form) for form in forms), key=len, reverse=True)
        self._known = re.compile("|".join(longest_first)) if longest_first else None

    def __call__(self, line: str) -> str:
        line = self._known.sub("***", line) if self._known else line
        return TOKEN.sub(lambda found: f"{found[1] or found[2]}***", line)

    def render(self, logger: Any, name: str, event: Any) -> str:
        """The last processor of a line."""
        rendered = structlog.processors.JSONRenderer(ensure_ascii=False)(logger, name, event)
        return self(rendered if isinstance(rendered, str) else rendered.decode())


def logging_config(level: str = "INFO", secrets: Iterable[str] = ()) -> dict[str, Any]:
    """For Django's LOGGING; sets structlog up to end in the same lines. `secrets`: values that no line may show."""
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
        | {
            "django.request": {"level": "ERROR"}
        },  # its warning says what `api.server.request_logging` says of each request
    }
