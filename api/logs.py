"""One JSON object a line on standard error, from structlog and from Python's own loggers alike; tokens are masked."""

import re
from typing import Any

import structlog

TOKEN = re.compile(r"\b(an[twa]_)[A-Za-z0-9_-]{16,}")
"""Plain tokens of users, workers and attempts, wherever in a line they stand."""
SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def masked(line: str) -> str:
    return TOKEN.sub(r"\1***", line)


def _render(logger: Any, name: str, event: Any) -> str:
    rendered = structlog.processors.JSONRenderer(ensure_ascii=False)(logger, name, event)
    return masked(rendered if isinstance(rendered, str) else rendered.decode())


def logging_config(level: str = "INFO") -> dict[str, Any]:
    """For Django's LOGGING; sets structlog up to end in the same lines."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        "foreign_pre_chain": SHARED,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
    }
