"""`python -m api dispatch`: wakes pools up and ends lost attempts, every two seconds."""

import logging
import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import InterfaceError, OperationalError, connection

from api.catalog.versions.checks import versions_check_until
from api.environment import environment
from api.jobs.dispatch import dispatch_round

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Wake worker pools up, end lost attempts, store logs of ended attempts; until SIGTERM or SIGINT."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="one round only")

    def handle(self, *_: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        if not options["once"]:
            threading.Thread(target=versions_check_until, args=(stop,), daemon=True, name="versions").start()
        while not stop.is_set():
            _round()
            if options["once"]:
                return
            stop.wait(environment().dispatch_seconds)


def _round() -> None:
    """The database may restart under us, or one job's rows break a sweep; the next round tries again."""
    try:
        dispatch_round()
    except (OperationalError, InterfaceError) as error:
        log.error("the database does not answer: %s", error)
        connection.close()
    except Exception:
        log.exception("a round of the dispatcher failed")
        connection.close()
