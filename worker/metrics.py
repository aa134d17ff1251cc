"""What Prometheus may ask of a worker host."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server


class Metrics:
    """One registry per host. `start` serves it as text on a port of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.claims = Counter("anneal_worker_claims", "Attempts claimed by this host.", registry=self.registry)
        self.ended = Counter(
            "anneal_worker_attempts_ended", "Attempts that ended on this host.", registry=self.registry
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for when it is scraped."""
        Gauge(f"anneal_worker_{name}", help_text, registry=self.registry).set_function(value)

    def start(self, port: int, address: str) -> int:
        """Returns the port that is served, which the system chooses where 0 was asked."""
        server, _ = start_http_server(port, addr=address, registry=self.registry)
        return int(server.server_port)
