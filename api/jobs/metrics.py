"""What this process counts about jobs; `api.metrics` adds what the database knows."""

from prometheus_client import Gauge, Histogram

CLAIM_SECONDS = Histogram(
    "anneal_claim_latency_seconds",
    "From queued to claimed.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 36000),
)
EVENT_LAG_SECONDS = Histogram(
    "anneal_event_lag_seconds",
    "From a trainer's event, by its worker's clock, to its row.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
STREAMS = Gauge("anneal_live_streams", "Event streams that are open.", multiprocess_mode="livesum")
