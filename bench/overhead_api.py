"""Latencies of the API: claims with short and long queues, heartbeats of many workers, events."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from bench.measure import REPOSITORY, Row, cpu_seconds, milliseconds, percentile, python
from bench.simulated import SimulatedWorker
from cli.http import Client, Record
from tests.faults.platform import Platform

HEARTBEAT_SECONDS = 15.0
CARDS = 4
NEVER, LATER, TAKEN = 8, 4, (0,)
"""Accelerator requests that the worker can never satisfy, cannot satisfy while card 0 is busy, and card 0 itself."""


def job_body(name: str, pool: str, accelerators: int | tuple[int, ...] = 0, *, steps: int = 1) -> Record:
    count = accelerators if isinstance(accelerators, int) else len(accelerators)
    return {
        "name": name,
        "method": "image_lora",
        "params": {"adaptor_name": name, "max_train_steps": steps, "checkpoint_every_steps": 1000},
        "dataset": "images",
        "model": "base",
        "pool": pool,
        "resources": {"accelerators": accelerators, "strategy": "ddp" if count > 1 else "single"},
    }


def claims(platform: Platform, client: Client, queued: int, samples: int) -> Iterator[Row]:
    """Claims while `queued` jobs that do not fit wait, and a submit behind them."""
    pool = f"claims-{queued}"
    worker = SimulatedWorker(_url(platform), platform.worker_token, pool, slots=samples + 2, accelerators=CARDS)
    client.post("jobs", job_body("holds-a-card", pool, TAKEN))
    assert worker.claim()[1] is not None, "the card was not taken"
    patterns = [client.post("jobs", job_body("waits", pool, needs))["id"] for needs in (NEVER, LATER, TAKEN)]
    fill(platform, dict.fromkeys(patterns, -(-queued // 3) - 1))
    nothing = [worker.claim()[0] for _ in range(samples)]
    yield Row(f"claim, {queued:,} queued, none fits", milliseconds(nothing), "p99 < 50 ms", _below(nothing, 0.05))
    started = time.perf_counter()
    pattern = client.post("jobs", job_body("fits", pool))["id"]
    seconds = time.perf_counter() - started
    yield Row(f"submit (POST jobs) behind {queued:,} queued", f"{1000 * seconds:.1f} ms")
    fill(platform, {pattern: samples})
    answers = [worker.claim() for _ in range(samples)]
    assert all(claim for _, claim in answers), "a job that fits was not claimed"
    times = [seconds for seconds, _ in answers]
    yield Row(f"claim, {queued:,} queued, one fits", milliseconds(times), "p99 < 50 ms", _below(times, 0.05))


def heartbeats(platform: Platform, client: Client, workers: int, seconds: float) -> Row:
    """Each worker and its attempt send a heartbeat every 15 s, evenly spread."""
    pool = f"beats-{workers}"
    fill(platform, {client.post("jobs", job_body("beats", pool))["id"]: workers})
    hosts = [SimulatedWorker(_url(platform), platform.worker_token, pool) for _ in range(workers)]
    beats: list[Callable[[], float]] = []
    for host in hosts:
        claim = host.claim()[1]
        assert claim is not None, "no job for a simulated worker"
        beats += [host.heartbeat, lambda host=host, claim=claim: host.attempt_heartbeat(claim)]  # type: ignore[misc]
    api = platform.children["api"].process
    assert api is not None
    before = cpu_seconds(api.pid)
    times = _at_rate(beats, len(beats) / HEARTBEAT_SECONDS, seconds)
    share = (cpu_seconds(api.pid) - before) / seconds
    measured = f"{milliseconds(times)}, API at {100 * share:.0f} % of a core"
    return Row(f"heartbeat, {workers} workers with an attempt each ({2 * workers / HEARTBEAT_SECONDS:.0f}/s)", measured)


def events(platform: Platform, client: Client, samples: int) -> Iterator[Row]:
    pool = "events"
    worker = SimulatedWorker(_url(platform), platform.worker_token, pool)
    client.post("jobs", job_body("talks", pool))
    claim = worker.claim()[1]
    assert claim is not None, "no job for the simulated worker"
    worker.emit(claim, "events", events_batch(1, [{"kind": "started", "total": 10**6, "step": 0}]))
    first = 2
    for size in (1, 100):
        batches = [
            events_batch(first + n * size, [step_event(n * size + i) for i in range(size)]) for n in range(samples)
        ]
        times = [worker.emit(claim, "events", batch) for batch in batches]
        first += samples * size
        each = f"{milliseconds(times)} a request, {1000 * percentile(times, 50) / size:.2f} ms an event"
        yield Row(f"record step events, {size} in a request", each)


def fill(platform: Platform, counts: dict[str, int]) -> None:
    """Inserts `counts[id]` copies of each queued job."""
    script = "from bench.fill import fill\n" + "\n".join(f"fill({job!r}, {count})" for job, count in counts.items())
    python("-m", "api", "shell", "-c", script, env={**platform.env, "PYTHONPATH": str(REPOSITORY)})


def _below(times: list[float], seconds: float) -> bool:
    return percentile(times, 99) < seconds


def _url(platform: Platform) -> str:
    return f"http://127.0.0.1:{platform.port}"


def _at_rate(calls: list[Callable[[], float]], per_second: float, seconds: float) -> list[float]:
    """Calls them in turn at a fixed rate, without waiting for earlier calls; returns their results."""
    waiting: list[Future[float]] = []
    with ThreadPoolExecutor(32) as threads:
        started = time.perf_counter()
        for n in range(max(1, int(per_second * seconds))):
            time.sleep(max(0.0, started + n / per_second - time.perf_counter()))
            waiting.append(threads.submit(calls[n % len(calls)]))
    return [future.result() for future in waiting]


def events_batch(first: int, payloads: list[Record]) -> Record:
    return {
        "first_seq": first,
        "events": [{"seq": first + i, "time": time.time(), "data": d} for i, d in enumerate(payloads)],
    }


def step_event(step: int) -> Record:
    speed = {"per_second": 1.0, "unit": "images", "peak_memory_bytes": 1, "eta_seconds": 1.0}
    metrics = {"loss": 0.5, "learning_rate": 1e-4, "grad_norm": 1.0}
    return {"kind": "step", "step": step, "total": 10**6, "epoch": 0.0, "metrics": metrics, **speed}
