"""PostgreSQL connections whose every wait for an answer is bounded: a silent server costs seconds, not a thread.

TCP options end a connection whose peer acknowledges nothing. A peer that acknowledges and stays silent, such as a proxy
in front of a dead server, needs a bound on the client's side.
"""

from typing import Any

import psycopg


def bounded(*, check_seconds: float, answer_seconds: float | None) -> type[psycopg.Connection[Any]]:
    """A connection class for a pool. `answer_seconds`: for one statement, None: unbounded; `check_seconds`: for the
    empty statement by which the pool checks a connection before it hands it out."""

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
            """Raises OperationalError and closes the connection where the bound passes without an answer."""
            bound = self._bound
            try:
                return super().wait(gen, *arguments, **{"timeout": bound, **options})
            except psycopg.errors._WaitTimeout:
                self.close()
                if pool := getattr(self, "_pool", None):
                    pool.drain()  # the other idle connections are as old: replaced at once, not checked one by one
                raise psycopg.OperationalError(f"the database did not answer within {bound:g} s") from None

    return BoundedConnection
