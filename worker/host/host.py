"""The worker host: one process that owns slots, accelerators, polling, claims, drain and all that runs below it."""

import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import structlog

from trainers.contract.errors import ReasonCode, reason
from trainers.contract.events import Step
from worker.attempt.agent import Agent
from worker.attempt.outbox import Outbox, RefusedResults, resend_with
from worker.attempt.wiring import Tools
from worker.client.api import Api
from worker.client.payloads import Claim, Timings
from worker.errors import RefusedError, UnreachableError
from worker.executors.local import LocalExecutor
from worker.host.claims import Claimer, UnknownClaimError
from worker.host.metrics import CacheCollector, CardCollector, LoadMeter, Metrics, TrainingCollector
from worker.host.registration import Identity, Pulse, Registration, sweep_earlier_boots
from worker.host.slots import Slots, accelerators_of, self_check
from worker.host.wake import Consumer, WakeServer, WakeupPipe, answer
from worker.process.supervise import Spawner
from worker.sandbox.wall_check import wall_here
from worker.settings import Settings
from worker.transfer.cache import InputCache
from worker.transfer.files import disk_is_full, remove_tree, write_json
from worker.transfer.room import Reserve, Room

HELLO_SECONDS = 2.0
"""Pause between two hellos that were not accepted."""
IDLE_SECONDS = 30.0
"""Longest wait of the loop where polling is off."""
log = structlog.get_logger()


class StoppingError(Exception):
    """A signal came before the worker was registered."""


class Host:
    """Raises ValueError for what the operator must mend: the folder is taken, an accelerator is missing."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._accelerators = accelerators_of(settings.accelerators)
        self._identity = Identity(settings.state_dir)
        wall = wall_here(settings, environ)
        self._api = Api(settings.api_url, settings.worker_token)
        self._attempts = settings.state_dir / "attempts"
        self._attempts.mkdir(exist_ok=True)
        storage, owner = httpx.Client(follow_redirects=True), wall.user.uid if wall.user else None
        self._refused = RefusedResults(settings.state_dir / "refused", settings.refused_bytes, owner)
        self._outbox = Outbox(
            settings.state_dir / "finishes",
            self._api,
            attempts=self._attempts,
            refused=self._refused,
            resend=resend_with(self._api, storage, settings, owner),
        )
        self._claimer = Claimer(self._api, settings.state_dir / "claim-id")
        self._slots = Slots(settings.slots, self._accelerators)
        self._bell = WakeupPipe()
        self._signals = 0
        self._hurried = 0
        self._registration = Registration(
            self._api,
            worker=self._identity.worker,
            boot=self._identity.boot,
            description={
                "host": socket.gethostname(),
                "pools": list(settings.pools),
                "slots": settings.slots,
                "accelerators": [accelerator.model_dump() for accelerator in self._accelerators],
                "labels": dict(settings.labels),
                "wall": wall.kind,
            },
        )
        self._pulse = Pulse(self._registration, self._report, self._bell.ring)
        self._spawner = Spawner()
        cache = InputCache(settings.state_dir / "cache", settings.cache_bytes)
        trainer_cache = settings.state_dir / "trainer-cache"
        trainer_cache.mkdir(exist_ok=True)
        self._room = Room(
            settings.state_dir, cache, trainer_cache, settings.trainer_cache_bytes, settings.min_free_bytes
        )
        self._reserve = Reserve(settings.state_dir / "reserve")
        self._executor = LocalExecutor(settings, self._spawner, self._identity.worker, environ, wall)
        self._tools = Tools(
            settings=settings,
            times=Timings(),
            api=self._api,
            storage=storage,
            cache=cache,
            wall=wall,
            executor=self._executor,
            outbox=self._outbox,
            reserve=self._reserve,
            refused=self._refused,
            environ=environ,
        )
        self._metrics = Metrics()
        wall.open_state()

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            gone = self._sweep()
            self._register(gone)
        except StoppingError:
            return 0
        for attempt in gone:
            self._refused.add_result(
                attempt, self._attempts / attempt / "out", "the worker host ended before its finish"
            )
            remove_tree(self._attempts / attempt)
        self._tidy()
        self._executor.is_preparing()
        self._watch_metrics()
        wake_socket = self._settings.state_dir / "wake.sock"
        wake = WakeServer(wake_socket, self._bell.ring)
        consumer = self._consumer(wake_socket)
        self._pulse.start(self._tools.times.heartbeat_seconds)
        log.info("worker_ready", worker=self._identity.worker, boot=self._identity.boot, slots=self._settings.slots)
        while not self._signals:
            try:
                self._take_work(wake)
                self._redeliver()
            except Exception:  # whatever one claim or finish does, the attempts that live go on
                log.exception("host_step_failed")
            self._bell.wait(self._poll_seconds() or IDLE_SECONDS)
        if consumer:
            consumer.close()
        wake.close()
        self._drain()
        return 0

    def _on_signal(self, *_: object) -> None:
        self._signals += 1
        self._bell.ring()

    def _sweep(self) -> list[str]:
        """Ends what an earlier boot left; returns the attempts that are gone and whose end is not in the outbox."""
        swept = sweep_earlier_boots(self._identity.worker) | {path.name for path in self._attempts.iterdir()}
        pending = self._outbox.pending()
        self._redeliver()
        return sorted(swept - set(pending))

    def _register(self, gone: list[str]) -> None:
        """Says hello until it is accepted. Raises StoppingError, or RefusedError for a wrong token."""
        while (times := self._registration.hello(gone)) is None:
            self._bell.wait(min(HELLO_SECONDS, self._settings.backoff_seconds * 4))
            if self._signals:
                raise StoppingError
        self._api.set_timeout(times.request_timeout_seconds)
        self._tools = replace(self._tools, times=times)

    def _hello_again(self) -> bool:
        """One try, for a worker that the API no longer counts as the one; its attempts go on meanwhile."""
        try:
            return self._registration.hello([]) is not None
        except RefusedError as error:
            log.error("hello_refused", error=str(error))
            return False

    def _consumer(self, wake_socket: Path) -> Consumer | None:
        if not self._settings.broker_url:
            return None
        return Consumer(
            broker_url=self._settings.broker_url,
            pools=self._settings.pools,
            wake_socket=wake_socket,
            backoff_seconds=self._settings.backoff_seconds,
        )

    def _poll_seconds(self) -> float:
        """0 where polling is off."""
        seconds = self._settings.poll_seconds
        return self._tools.times.poll_seconds if seconds is None else seconds

    def _take_work(self, wake: WakeServer) -> None:
        """Claims while there are free slots and jobs, and answers the calls that waited for it."""
        while self._slots.free() > 0 and not self._signals:
            calls = wake.take()
            try:
                more = bool(calls or self._poll_seconds() or self._claimer.unanswered()) and self._claim()
            finally:
                answer(calls)
            if not more:
                return

    def _claim(self) -> bool:
        """One claim; True where an attempt was started."""
        if not self._registration.is_registered and not self._hello_again():
            return False
        if not self._claimer.unanswered() and (self._registration.draining or not self._has_room()):
            return False
        body = {
            "worker": self._identity.worker,
            "boot_id": self._identity.boot,
            "pools": list(self._settings.pools),
            "free_accelerators": self._slots.free_accelerators(),
            "labels": dict(self._settings.labels),
            "room_bytes": self._room.for_inputs(),
        }
        try:
            steps = self._claimer.claim(body)
            if steps is not None:
                self._start(*steps)
        except UnreachableError as error:
            log.warning("claim_unanswered", error=str(error))
            return False
        except RefusedError as error:
            log.error("claim_refused", error=str(error))
            self._registration.is_registered = error.code not in ("unknown_worker", "worker_identity_taken")
            if error.code == "claim_id_taken":
                self._claimer.taken()
            return False
        except UnknownClaimError as error:
            self._hand_back(error)
            return False
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.error("no_room_for_an_attempt", error=str(error))
            return False
        return steps is not None

    def _hand_back(self, error: UnknownClaimError) -> None:
        """Gives up an attempt that this worker does not understand, so that its job goes to another."""
        log.error("claim_not_understood", error=str(error), hint="Update the worker.")
        if error.attempt:
            message = f"The worker does not understand the claim ({error}); update it to the release of the API."
            because = reason(ReasonCode.WORKER_LOST, message).model_dump(mode="json")
            body: dict[str, Any] = {"outcome": "lost", "reason": because, "files": []}
            self._outbox.put(error.attempt.id, error.attempt.token, body)
        self._claimer.taken()

    def _start(self, claim: Claim, sent_at: float) -> None:
        attempt = claim.attempt.id
        folder = self._attempts / attempt
        remove_tree(folder)
        folder.mkdir()
        write_json(folder / "attempt.json", {"attempt": attempt, "job": claim.job.id, "fence": claim.attempt.fence})
        self._claimer.taken()
        agent = Agent(self._tools, claim, folder, sent_at)
        self._slots.take(attempt, agent, claim.accelerators)
        self._metrics.claims.inc()
        log.info("attempt_claimed", attempt=attempt, job=claim.job.id, method=claim.job.method, n=claim.attempt.n)
        threading.Thread(target=self._run_agent, args=(attempt, agent), name=f"agent-{attempt[:8]}").start()

    def _run_agent(self, attempt: str, agent: Agent) -> None:
        try:
            agent.run()
        finally:
            self._slots.give_back(attempt)
            self._tidy()
            self._metrics.ended.inc()
            self._bell.ring()

    def _tidy(self) -> None:
        """Between attempts: the trainers' cache back below its limit, the reserve filled again."""
        try:
            self._room.trim_trainer_cache(self._slots.oldest_start())
        except OSError as error:
            log.warning("trainer_cache_not_trimmed", error=str(error))
        self._reserve.fill()

    def _has_room(self) -> bool:
        if self._room.make(self._slots.oldest_start()):
            return True
        log.warning("no_room", free_bytes=self._room.free_bytes(), min_free_bytes=self._settings.min_free_bytes)
        return False

    def _report(self) -> dict[str, Any]:
        """What a heartbeat tells; a host without room has no free slot, so that no wake-up call is sent to it."""
        room = self._room.for_inputs()
        code = self._registration.quarantine
        check = code and self_check(
            code, setting=self._settings.accelerators, accelerators=self._accelerators, has_room=self._has_room
        )
        short = self._room.free_bytes() < self._settings.min_free_bytes
        return {"free_slots": 0 if short else self._slots.free(), "room_bytes": room, "self_check": check or None}

    def _redeliver(self) -> None:
        """Finishes that their agents could not deliver; those of live attempts are their agents' business."""
        live = self._slots.live()
        for attempt in self._outbox.pending():
            if attempt in live:
                continue
            try:
                if self._outbox.deliver(attempt):
                    remove_tree(self._attempts / attempt)
            except Exception:  # one finish must not end the host, nor keep the others waiting
                log.exception("finish_not_handled", attempt=attempt)

    def _drain(self) -> None:
        """Ends all attempts with checkpoint and partial adaptor; each further signal is a push."""
        self._slots.stop_all("drain")
        while self._slots.live():
            while self._hurried < self._signals - 1:
                self._hurried += 1
                self._slots.hurry_all()
            self._bell.wait(1.0)
        self._executor.close()
        self._pulse.close()
        self._registration.goodbye()
        self._spawner.close()
        self._api.close()
        log.info("worker_stopped", worker=self._identity.worker)

    def _watch_metrics(self) -> None:
        watch, slots, outbox = self._metrics.watch, self._slots, self._outbox
        watch("slots", "Attempts that may run at once.", lambda: self._settings.slots)
        watch("live_attempts", "Attempts that run now.", lambda: len(slots.live()))
        watch("accelerators", "Accelerators of this host.", lambda: len(self._accelerators))
        watch("free_accelerators", "Accelerators without an attempt.", lambda: len(slots.free_accelerators()))
        watch("resident_models", "Base models kept in memory after a sampling job.", self._executor.residents.count)
        watch("trainer_cache_bytes", "Files that trainers computed.", self._room.trainer_cache_bytes)
        watch("disk_free_bytes", "Free bytes of the state folder's disk.", self._room.free_bytes)
        watch("pending_finishes", "Ends that the API has not answered.", lambda: len(outbox.pending()))
        watch("refused_results", "Results that the API did not take.", self._refused.count)
        watch("refused_bytes", "Their size.", self._refused.size_bytes)
        watch("heartbeat_age_seconds", "Time since the API last answered.", self._registration.silence_seconds)
        self._metrics.collect(
            CacheCollector(self._tools.cache), CardCollector(LoadMeter()), TrainingCollector(self._newest_steps)
        )
        if self._settings.metrics_port is not None:
            port = self._metrics.start(self._settings.metrics_port, self._settings.metrics_address)
            log.info("metrics_served", address=self._settings.metrics_address, port=port)

    def _newest_steps(self) -> list[tuple[int, Step]]:
        steps = ((slot, agent.newest_step) for slot, agent in sorted(self._slots.agents().items()))
        return [(slot, step) for slot, step in steps if step is not None]
