"""Counters of this process about jobs; `api.metrics` adds what the database knows."""

from prometheus_client import Counter, Histogram

CLAIM_SECONDS = Histogram(
    "anneal_claim_latency_seconds",
    "From queued to claimed.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 36000),
)
ATTEMPTS = Counter("anneal_attempts_ended_total", "Attempts that ended, by outcome.", ["outcome"])
