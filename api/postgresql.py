"""PostgreSQL connections with a time limit for every response, so that a silent server does not block a thread.

TCP options close a connection whose peer acknowledges nothing. A peer that acknowledges but does not respond, such as a
proxy in front of a dead server, needs a limit on the client's side.
"""

from typing import Any

import psycopg


def bounded(*, check_seconds: float, answer_seconds: float | None) -> type[psycopg.Connection[Any]]:
    """A connection class for a pool. `answer_seconds`: limit of one statement, None: unlimited. `check_seconds`: limit
    of the empty statement by which the pool checks a connection."""

    class BoundedConnection(psycopg.Connection[Any]):
        _bound = answer_seconds

        def execute(self, query: Any, *arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
            if query != "":
                return super().execute(query, *arguments, **options)
            self._bound = check_seconds
            try:
                return super().execute(query, *arguments, **options)
            finally:
                self._bound = answer_seconds

        def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
            """Raises OperationalError and closes the connection if there is no response in time."""
            bound = self._bound
            try:
                return super().wait(gen, *arguments, **{"timeout": bound, **options})
            except psycopg.errors._WaitTimeout:
                self.close()
                if pool := getattr(self, "_pool", None):
                    pool.drain()  # replaces the other idle connections, which are probably dead too
                raise psycopg.OperationalError(f"the database did not answer within {bound:g} s") from None

    return BoundedConnection
