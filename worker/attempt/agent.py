"""One attempt: fetch inputs, start the trainer, relay what it says, publish what it makes, finish."""

import os
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import structlog

from foundation.phases import IMPORTING, LOADING
from foundation.retry import backoff
from trainers.contract.errors import Reason, ReasonCode, reason
from trainers.contract.events import Step
from worker.attempt.control import ControlFile
from worker.attempt.deadlines import Deadlines, StopRequest
from worker.attempt.event_sender import EventSender
from worker.attempt.heartbeat import Heartbeat
from worker.attempt.logs import LogSpool, Masker
from worker.attempt.outbox import Outbox
from worker.attempt.outcome import STOP_REASONS, Ending, Manifest, Verdict, manifest_read, verdict_of
from worker.attempt.publish import Publisher
from worker.attempt.refused import RefusedResults
from worker.attempt.reuse_key import reuse_key
from worker.attempt.tail import EventTail
from worker.attempt.trainer_monitor import LiveFiles, TrainerMonitor
from worker.client.api import Api
from worker.client.clock import boottime
from worker.client.lease import Lease
from worker.client.payloads import Claim, Timings
from worker.errors import AttemptError, FencedError, RefusedError, StopError
from worker.executors.base import Executor
from worker.process.environment import secrets_in
from worker.process.launch import Launch
from worker.process.oom import oom_kills
from worker.process.places import places_in, room_in
from worker.process.supervise import Exit
from worker.sandbox.network import network_of
from worker.sandbox.wall import Wall
from worker.settings import Settings
from worker.transfer.cache import InputCache
from worker.transfer.files import disk_is_full, remove_tree, room_left, write_json
from worker.transfer.inputs import InputFetcher
from worker.transfer.out_folder import OutBounds, OutFolder
from worker.transfer.room import Reserve
from worker.transfer.transfer import Retry, disk_failure

log = structlog.get_logger()


@dataclass(frozen=True)
class Tools:
    """What all agents of a host share."""

    settings: Settings
    times: Timings
    api: Api
    storage: httpx.Client
    cache: InputCache
    wall: Wall
    executor: Executor
    outbox: Outbox
    reserve: Reserve
    refused: RefusedResults
    environ: Mapping[str, str]


@dataclass(frozen=True)
class End:
    """What the attempt's finish says."""

    verdict: Verdict
    exit_code: int | None = None
    manifest: dict[str, Any] | None = None
    files: tuple[dict[str, Any], ...] = ()


class Agent:
    """Runs in a thread of the host; `orders` may be given from any thread.

    sent_at: when the claim was sent, on CLOCK_BOOTTIME.
    """

    def __init__(self, tools: Tools, claim: Claim, folder: Path, sent_at: float) -> None:
        self._tools = tools
        self._claim = claim
        self._folder = folder
        self._stays = reuse_key(claim) if tools.settings.resident_models else ""
        residents = tools.settings.state_dir / "residents"
        self._room = room_in(residents, self._stays, claim.accelerators) if self._stays else None
        self._places = self._room.places(claim.attempt.id) if self._room else places_in(folder)
        self._out = OutFolder(self._places.out, tools.wall.user.uid if tools.wall.user else None)
        self.orders = StopRequest(tools.settings.drain_seconds)
        self._lease = Lease(sent_at, tools.times.self_fence_seconds)
        self._api = tools.api.attempt(claim.attempt.id, claim.attempt.token, self._lease)
        known = (tools.settings.worker_token, claim.attempt.token, *claim.secrets.values())
        masker = Masker([*known, *secrets_in(tools.environ)])
        self._spool = LogSpool(folder / "log", masker, tools.settings.log_bytes)
        self._control = ControlFile(self._places.inputs / "control", claim.attempt.n)
        first_pause = tools.settings.backoff_seconds
        self._sender = EventSender(self._api, self._control, self._spool, first_pause, tools.settings.publish_seconds)
        self._publisher = Publisher(self._api, tools.storage, self._out, folder / "publish", first_pause)
        self._training = TrainerMonitor(
            tail=EventTail(self._out, masker),
            sender=self._sender,
            publisher=self._publisher,
            control=self._control,
            lease=self._lease,
            orders=self.orders,
            stop_grace_seconds=claim.stop_grace_seconds,
            no_progress_seconds=claim.no_progress_seconds,
            kill_seconds=tools.times.kill_seconds,
            on_first_event=lambda: self._heartbeat.enter(LOADING),
            live_files=LiveFiles(self._out, self._publisher, tools.settings.tensorboard_seconds),
            out_bounds=OutBounds(
                (self._out, OutFolder(self._places.tmp)),
                most_files=tools.settings.trainer_out_files,
                most_bytes=tools.settings.trainer_out_bytes,
            ),
        )
        self._heartbeat = Heartbeat(
            self._api,
            self._lease,
            fence=claim.attempt.fence,
            interval_seconds=tools.times.heartbeat_seconds,
            progress_seq=lambda: self._training.progress_seq,
            on_answer=self._obey,
        )
        self._trainer_ended = threading.Event()
        self._waits = Deadlines(self._lease, self.orders)

    @property
    def newest_step(self) -> Step | None:
        return self._training.newest

    def run(self) -> None:
        """From claim to finish; returns when the API has the end, or it is on disk to be repeated."""
        done = threading.Event()
        given_up = ""
        with ThreadPoolExecutor(thread_name_prefix=f"attempt-{self._claim.attempt.id[:8]}") as threads:
            self._heartbeat.beat()
            beating = threads.submit(self._heartbeat.run, done)
            try:
                self._finish(self._work(threads, beating))
            except FencedError as error:
                given_up = str(error)
                log.warning("attempt_given_up", attempt=self._claim.attempt.id, why=given_up)
                if not self._lease.refused and not self._tools.outbox.holds(self._claim.attempt.id):
                    self._finish(End(Verdict("lost", reason(ReasonCode.WORKER_LOST, str(error)))))
            finally:
                done.set()
                self._heartbeat.wake()
        if self._tools.outbox.holds(self._claim.attempt.id):
            remove_tree(self._places.inputs)
            return  # the host delivers it, with what lies in the folder
        if given_up:
            self._bring_out()
            self._tools.refused.add_result(self._claim.attempt.id, self._folder / "out", given_up)
        self._places.remove()
        remove_tree(self._folder)

    @property
    def _copies_inputs(self) -> bool:
        """Where the trainer may not reach the cache: a resident was bound before the attempt came."""
        return bool(self._stays or self._tools.wall.user)

    def _obey(self, answer: dict[str, Any]) -> None:
        """What a heartbeat brought back."""
        if answer.get("stop"):
            self.orders.stop(answer["stop"])
        if wanted := answer.get("control"):
            try:
                self._control.ask(wanted["command"], wanted["seq"])
            except OSError as error:  # asked again with the next heartbeat; the pulse must not stop for it
                log.warning("control_not_written", command=wanted["command"], error=str(error))

    def _work(self, threads: ThreadPoolExecutor, beating: "Future[None]") -> End:
        try:
            with ExitStack() as held:
                self._fetch_inputs(held)
                return self._train(threads, beating)
        except AttemptError as failure:
            return End(Verdict("failed", failure.reason))
        except StopError:
            return self._stopped()
        except FencedError:
            raise
        except Exception as error:  # the end of the thread: a fault of ours must end the job with a Reason
            log.exception("agent_broke", attempt=self._claim.attempt.id)
            return End(Verdict("failed", _reason_of(error)))
        finally:
            self._trainer_ended.set()

    def _stopped(self) -> End:
        kind = self.orders.stop_kind
        assert kind is not None, "StopError without a stop"
        return End(Verdict("drained" if kind == "drain" else "stopped", reason(STOP_REASONS[kind])))

    def _fetch_inputs(self, held: ExitStack) -> None:
        if missing := ", ".join(self._claim.missing_secrets):
            said = f"The project's secret {missing} is gone, or no key opens it any more; put it again."
            raise AttemptError(ReasonCode.BAD_PARAMETERS, said)
        wall, project = self._tools.wall, self._claim.project
        places, room = self._places, self._room
        if room:
            read, changed = (room.inputs, room.logs), (room.out, room.tmp)
            wall.open_folders(project, passed=(room.folder,), read=read, changed=changed)
        wall.open_folders(project, passed=(self._folder,), read=(places.inputs,), changed=(places.out, places.tmp))
        settings = self._tools.settings
        retry = Retry(settings.transfer_attempts, settings.backoff_seconds, self._waits.before_training)
        fetcher = InputFetcher(self._api, self._tools.storage, self._tools.cache, retry, copies=self._copies_inputs)
        for place, wanted in self._claim.inputs.items():
            fetcher.fill(place, wanted, self._places.inputs, held)
        write_json(self._places.spec, self._claim.spec)
        wall.give(self._places.spec, project)
        self._waits.before_training(0)
        while not self._heartbeat.answered:
            self._waits.before_training(0.1)

    def _train(self, threads: ThreadPoolExecutor, beating: "Future[None]") -> End:
        sending = threads.submit(self._sender.run, self._trainer_ended, self._waits.sending)
        publishing = threads.submit(self._publisher.run, self._trainer_ended, self._waits.publishing)
        kills_before = oom_kills()
        end = self._run_trainer(threads, [sending, publishing, beating])
        if end.fenced:
            self._waits.abandon("the lease ran out without an answered heartbeat, so the trainer was ended")
            raise FencedError(self._waits.abandoned)
        for kind, name in (("tensorboard", "tensorboard"), ("other", "wandb")):
            if self._out.has_folder(name):
                self._publisher.stage(kind, self._training.last_step, name, {})
        self._waits.publish_for(self._tools.settings.publish_seconds)
        self._trainer_ended.set()
        publishing.result()
        sending.result()
        return self._conclude(end, out_of_memory=oom_kills() != kills_before)

    def _run_trainer(self, threads: ThreadPoolExecutor, background: list["Future[None]"]) -> Exit:
        """Ends only when nothing of the trainer is left, also when something here breaks."""
        read_end, write_end = os.pipe()
        reading = threads.submit(self._spool.read_all, read_end)
        try:
            running = self._tools.executor.start(self._launch(), write_end)
            self._heartbeat.enter(IMPORTING)
        finally:
            os.close(write_end)
        try:
            end = self._training.watch(running, [*background, reading])
        finally:
            running.kill()
            while running.wait(1.0) is None:
                continue
        reading.result()
        return end

    def _launch(self) -> Launch:
        return Launch(
            attempt=self._claim.attempt.id,
            folder=self._folder,
            places=self._places,
            project=self._claim.project,
            resources=self._claim.resources,
            accelerators=self._claim.accelerators,
            kill_seconds=self._tools.times.kill_seconds,
            deadline=self._lease.deadline,
            network=network_of(self._claim, wrapped=bool(self._tools.settings.trainer_command)),
            reuse_key=self._stays,
            secrets=self._claim.secrets,
        )

    def _conclude(self, end: Exit, *, out_of_memory: bool) -> End:
        manifest = manifest_read(self._out)
        ending = Ending(
            exit=end,
            manifest=manifest,
            failed=self._training.failed,
            stop=self.orders.stop_kind,
            forced=self._training.forced,
            no_progress_seconds=self._claim.no_progress_seconds if self._training.silent else None,
            oversize=self._training.oversize,
            out_of_memory=out_of_memory,
            disk_full=not room_left(self._folder),
            tail=self._spool.tail(),
        )
        verdict = verdict_of(ending)
        if verdict.outcome == "stopped" and self._publisher.problem:
            verdict = Verdict("failed", self._publisher.problem.reason)
        found = End(verdict, exit_code=end.code)
        if isinstance(manifest, Manifest) and verdict.outcome in ("succeeded", "stopped"):
            return self._with_files(found, manifest)
        return found

    def _with_files(self, end: End, manifest: Manifest) -> End:
        names = [*(file.path for file in manifest.files), "manifest.json"]
        retry = Retry(
            self._tools.settings.transfer_attempts, self._tools.settings.backoff_seconds, self._waits.publishing
        )
        try:
            files = self._publisher.upload(self._staged(names), retry)
        except RefusedError as error:
            raise AttemptError(ReasonCode.STORAGE_REFUSED, "The result was refused.", str(error)) from error
        recorded = {file.path: file.sha256 for file in manifest.files}
        for file in files:
            if recorded.get(file["path"], file["sha256"]) != file["sha256"]:
                said = f"{file['path']} has digest {file['sha256']}, manifest.json says {recorded[file['path']]}"
                raise AttemptError(ReasonCode.NO_MANIFEST, said, self._spool.tail())
        return replace(end, manifest=manifest.content, files=tuple(files))

    def _staged(self, names: list[str]) -> list[tuple[str, Path]]:
        """Each once, under a path that no trainer could reach."""
        staging = self._folder / "publish" / "result"
        for name in dict.fromkeys(names):
            self._out.stage(name, staging / name)
        return [(name, staging / name) for name in dict.fromkeys(names)]

    def _finish(self, end: End) -> None:
        attempt, because = self._claim.attempt, end.verdict.reason
        body = {
            "outcome": end.verdict.outcome,
            "exit_code": end.exit_code,
            "reason": because.model_dump(mode="json") if because else None,
            "manifest": end.manifest,
            "files": list(end.files),
            "last_step": self._training.last_step,
            "resends": bool(end.files),
        }
        self._keep(body)
        give_over_at = self._lease.deadline + self._tools.settings.publish_seconds
        for seconds in backoff(self._tools.settings.backoff_seconds):
            if self._tools.outbox.deliver(attempt.id):
                break
            if boottime() > give_over_at:
                log.error("finish_left_to_host", attempt=attempt.id, outcome=end.verdict.outcome)
                return
            self._waits.finishing(seconds)
        log.info("attempt_finished", attempt=attempt.id, outcome=end.verdict.outcome)

    def _keep(self, body: dict[str, Any]) -> None:
        """The end on disk, so that it survives us; on a full one in the room of the reserve, and only where that is not
        enough in that of what nobody needs any more."""
        attempt, outbox = self._claim.attempt, self._tools.outbox
        self._bring_out()
        unpublished = "" if body["manifest"] else self._unpublished(body)
        try:
            self._tools.reserve.lend(lambda: outbox.put(attempt.id, attempt.token, body, unpublished))
        except OSError as error:
            if not disk_is_full(error):
                raise
            spare = [self._folder / "publish", self._places.inputs]
            spare += [] if unpublished or body["manifest"] else [self._folder / "out"]
            log.warning("disk_full", attempt=attempt.id, removing=[str(folder) for folder in spare])
            for folder in spare:
                remove_tree(folder)
            outbox.put(attempt.id, attempt.token, body, unpublished)

    def _bring_out(self) -> None:
        """Moves out/ of a resident's room into the attempt's folder, where the outbox and the host look for it."""
        place = self._folder / "out"
        if self._places.out != place and self._places.out.is_dir() and not place.exists():
            self._places.out.rename(place)

    def _unpublished(self, body: dict[str, Any]) -> str:
        """Why the complete result that the trainer left is not in `body`; empty where it left none."""
        if not isinstance(manifest_read(OutFolder(self._folder / "out", self._out.owner)), Manifest):
            return ""
        return f"the attempt ended as {body['outcome']}: {(body['reason'] or {}).get('message', '')}"


def _reason_of(error: Exception) -> Reason:
    known = disk_failure(error) if isinstance(error, OSError) else error
    if isinstance(known, AttemptError):
        return known.reason
    trace = "".join(traceback.format_exception(error))[-4000:]
    return reason(ReasonCode.INTERNAL, f"The worker broke: {type(error).__name__}.", trace)
