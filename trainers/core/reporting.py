"""Who hears a trainer's events: the file of events, and those who listen."""

from collections.abc import Callable

from trainers.contract.events import AnyPayload, EventWriter, Payload


class Reporter:
    """Passes each event on; silent on every rank but 0."""

    def __init__(self, events: EventWriter | None) -> None:
        self._events = events
        self._listeners: list[Callable[[Payload], None]] = []

    def listen(self, listener: Callable[[Payload], None]) -> None:
        self._listeners.append(listener)

    def emit(self, payload: AnyPayload) -> None:
        if self._events is None:
            return
        self._events.emit(payload)
        for listener in self._listeners:
            listener(payload)
