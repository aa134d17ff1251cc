"""`python -m api serve`: the API behind uvicorn, with limits on connections that its own command lacks."""

from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from api.server.http_protocol import KEEP_ALIVE_SECONDS, TimedProtocol

STOP_SECONDS = 5


class Command(BaseCommand):
    help = "Serve the API, the panel and, from a folder, the files; until SIGTERM or SIGINT."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--workers", type=int, default=1, help="processes; one where the database is SQLite")

    def handle(self, *_: Any, **options: Any) -> None:
        uvicorn.run(
            "api.asgi:application",
            host=options["host"],
            port=options["port"],
            workers=options["workers"],
            http=TimedProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
