"""The times that the API tells a worker at hello: one source for both sides of the lease."""

from pydantic import BaseModel, ConfigDict


class Timings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    heartbeat_seconds: float = 15
    lease_seconds: float = 300
    self_fence_seconds: float = 240
    kill_seconds: float = 20
    poll_seconds: float = 5
    request_timeout_seconds: float = 10
