"""Runs one attempt: fetches inputs, starts the trainer, relays its events, publishes its results, finishes."""

import os
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from foundation.boottime import boottime
from foundation.protocol import IMPORTING
from foundation.retry import backoff
from trainers.contract.errors import Reason, ReasonCode, reason
from trainers.contract.events import Step
from worker.attempt.control import StopRequest
from worker.attempt.outcome import STOP_REASONS, Ending, Manifest, Verdict, manifest_read, oom_kills, verdict_of
from worker.attempt.wiring import Tools, can_be_forked, launch_of, parts_of
from worker.client.payloads import Claim
from worker.errors import AttemptError, FencedError, RefusedError, StopError
from worker.process.supervise import Exit
from worker.transfer.files import disk_is_full, remove_tree, room_left, write_json
from worker.transfer.inputs import InputFetcher
from worker.transfer.out_folder import OutFolder
from worker.transfer.transfer import Retry, disk_failure

log = structlog.get_logger()


@dataclass(frozen=True)
class End:
    """What the attempt's finish says."""

    verdict: Verdict
    exit_code: int | None = None
    manifest: dict[str, Any] | None = None
    files: tuple[dict[str, Any], ...] = ()


class Agent:
    """Runs in a thread of the host; `stop_request` may be changed from any thread.

    sent_at: when the claim was sent, on CLOCK_BOOTTIME.
    """

    def __init__(self, tools: Tools, claim: Claim, folder: Path, sent_at: float) -> None:
        self._tools = tools
        self._claim = claim
        self._folder = folder
        self._parts = parts_of(tools, claim, folder, sent_at)
        self._trainer_ended = threading.Event()

    @property
    def stop_request(self) -> StopRequest:
        return self._parts.stop_request

    @property
    def newest_step(self) -> Step | None:
        return self._parts.monitor.newest

    def run(self) -> None:
        """Runs from claim to finish. Returns once the API has accepted the finish or the outbox holds it."""
        done = threading.Event()
        given_up = ""
        with ThreadPoolExecutor(thread_name_prefix=f"attempt-{self._claim.attempt.id[:8]}") as threads:
            self._parts.heartbeat.beat()
            beating = threads.submit(self._parts.heartbeat.run, done)
            try:
                self._finish(self._work(threads, beating))
            except FencedError as error:
                given_up = str(error)
                log.warning("attempt_given_up", attempt=self._claim.attempt.id, why=given_up)
                if not self._parts.lease.refused and not self._tools.outbox.holds(self._claim.attempt.id):
                    self._finish(End(Verdict("lost", reason(ReasonCode.WORKER_LOST, str(error)))))
            finally:
                done.set()
                self._parts.heartbeat.wake()
        if self._tools.outbox.holds(self._claim.attempt.id):
            remove_tree(self._parts.places.inputs)
            return  # the host delivers the finish, with the files in the folder
        if given_up:
            self._bring_out()
            self._tools.refused.add_result(self._claim.attempt.id, self._folder / "out", given_up)
        self._parts.places.remove()
        remove_tree(self._folder)

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
        except Exception as error:  # top of the thread: a bug of ours must end the job with a Reason
            log.exception("agent_broke", attempt=self._claim.attempt.id)
            return End(Verdict("failed", _reason_of(error)))
        finally:
            self._trainer_ended.set()

    def _stopped(self) -> End:
        kind = self._parts.stop_request.stop_kind
        assert kind is not None, "StopError without a stop"
        return End(Verdict("drained" if kind == "drain" else "stopped", reason(STOP_REASONS[kind])))

    def _fetch_inputs(self, held: ExitStack) -> None:
        if missing := ", ".join(self._claim.missing_secrets):
            message = f"The project's secret {missing} is missing, or no key decrypts it any more; set it again."
            raise AttemptError(ReasonCode.BAD_PARAMETERS, message)
        wall, project = self._tools.wall, self._claim.project
        places, room = self._parts.places, self._parts.room
        if room:
            read, changed = (room.inputs, room.logs), (room.out, room.tmp)
            wall.open_folders(project, passed=(room.folder,), read=read, changed=changed)
        wall.open_folders(project, passed=(self._folder,), read=(places.inputs,), changed=(places.out, places.tmp))
        settings = self._tools.settings
        retry = Retry(settings.transfer_attempts, settings.backoff_seconds, self._parts.deadlines.before_training)
        copies = bool(self._parts.reuse_key or self._tools.wall.user)  # the trainer cannot reach the cache then
        fetcher = InputFetcher(self._parts.api, self._tools.storage, self._tools.cache, retry, copies=copies)
        for place, part in self._claim.inputs.items():
            fetcher.fill(place, part, self._parts.places.inputs, held)
        write_json(self._parts.places.spec, self._claim.spec)
        wall.give(self._parts.places.spec, project)
        self._parts.deadlines.before_training(0)
        while not self._parts.heartbeat.answered:
            self._parts.deadlines.before_training(0.1)
        while can_be_forked(self._claim) and self._tools.executor.is_preparing():
            self._parts.deadlines.before_training(0.1)

    def _train(self, threads: ThreadPoolExecutor, beating: "Future[None]") -> End:
        sending = threads.submit(self._parts.sender.run, self._trainer_ended, self._parts.deadlines.sending)
        publishing = threads.submit(self._parts.publisher.run, self._trainer_ended, self._parts.deadlines.publishing)
        kills_before = oom_kills()
        end = self._run_trainer(threads, [sending, publishing, beating])
        if end.fenced:
            self._parts.deadlines.abandon("the lease ran out without an answered heartbeat, so the trainer was ended")
            raise FencedError(self._parts.deadlines.abandoned)
        for kind, name in (("tensorboard", "tensorboard"), ("other", "wandb")):
            if self._parts.out.has_folder(name):
                self._parts.publisher.stage(kind, self._parts.monitor.last_step, name, {})
        self._parts.deadlines.publish_for(self._tools.settings.publish_seconds)
        self._trainer_ended.set()
        publishing.result()
        sending.result()
        return self._conclude(end, out_of_memory=oom_kills() != kills_before)

    def _run_trainer(self, threads: ThreadPoolExecutor, background: list["Future[None]"]) -> Exit:
        """Returns only once no process of the trainer is left, even when this thread fails."""
        read_end, write_end = os.pipe()
        reading = threads.submit(self._parts.spool.read_all, read_end)
        try:
            running = self._tools.executor.start(
                launch_of(self._tools, self._claim, self._folder, self._parts), write_end
            )
            self._parts.heartbeat.enter(IMPORTING)
        finally:
            os.close(write_end)
        try:
            end = self._parts.monitor.watch(running, [*background, reading])
        finally:
            running.kill()
            while running.wait(1.0) is None:
                continue
        reading.result()
        return end

    def _conclude(self, end: Exit, *, out_of_memory: bool) -> End:
        manifest = manifest_read(self._parts.out)
        ending = Ending(
            exit=end,
            manifest=manifest,
            failed=self._parts.monitor.failed,
            stop=self._parts.stop_request.stop_kind,
            forced=self._parts.monitor.forced,
            no_progress_seconds=self._claim.no_progress_seconds if self._parts.monitor.silent else None,
            oversize=self._parts.monitor.oversize,
            out_of_memory=out_of_memory,
            disk_full=not room_left(self._folder),
            tail=self._parts.spool.tail(),
        )
        verdict = verdict_of(ending)
        if verdict.outcome == "stopped" and self._parts.publisher.problem:
            verdict = Verdict("failed", self._parts.publisher.problem.reason)
        end_result = End(verdict, exit_code=end.code)
        if isinstance(manifest, Manifest) and verdict.outcome in ("succeeded", "stopped"):
            return self._with_files(end_result, manifest)
        return end_result

    def _with_files(self, end: End, manifest: Manifest) -> End:
        names = [*(file.path for file in manifest.files), "manifest.json"]
        retry = Retry(
            self._tools.settings.transfer_attempts,
            self._tools.settings.backoff_seconds,
            self._parts.deadlines.publishing,
        )
        try:
            files = self._parts.publisher.upload(self._staged(names), retry)
        except RefusedError as error:
            raise AttemptError(ReasonCode.STORAGE_REFUSED, "The result was refused.", str(error)) from error
        recorded = {file.path: file.sha256 for file in manifest.files}
        for file in files:
            if recorded.get(file["path"], file["sha256"]) != file["sha256"]:
                message = f"SHA-256 mismatch in {file['path']}: expected {recorded[file['path']]}, got {file['sha256']}"
                raise AttemptError(ReasonCode.NO_MANIFEST, message, self._parts.spool.tail())
        return replace(end, manifest=manifest.content, files=tuple(files))

    def _staged(self, names: list[str]) -> list[tuple[str, Path]]:
        """Stages each file once, under a path that no trainer can reach."""
        staging = self._folder / "publish" / "result"
        for name in dict.fromkeys(names):
            self._parts.out.stage(name, staging / name)
        return [(name, staging / name) for name in dict.fromkeys(names)]

    def _finish(self, end: End) -> None:
        attempt, because = self._claim.attempt, end.verdict.reason
        body = {
            "outcome": end.verdict.outcome,
            "exit_code": end.exit_code,
            "reason": because.model_dump(mode="json") if because else None,
            "manifest": end.manifest,
            "files": list(end.files),
            "last_step": self._parts.monitor.last_step,
            "resends": bool(end.files),
        }
        self._keep(body)
        give_over_at = self._parts.lease.deadline + self._tools.settings.publish_seconds
        for seconds in backoff(self._tools.settings.backoff_seconds):
            if self._tools.outbox.deliver(attempt.id):
                break
            if boottime() > give_over_at:
                log.error("finish_left_to_host", attempt=attempt.id, outcome=end.verdict.outcome)
                return
            self._parts.deadlines.finishing(seconds)
        log.info("attempt_finished", attempt=attempt.id, outcome=end.verdict.outcome)

    def _keep(self, body: dict[str, Any]) -> None:
        """Writes the finish to disk, so that it survives this process.

        On a full disk, releases the reserve; if that is not enough, deletes what the attempt no longer needs.
        """
        attempt, outbox = self._claim.attempt, self._tools.outbox
        self._bring_out()
        unpublished = "" if body["manifest"] else self._unpublished(body)
        try:
            self._tools.reserve.lend(lambda: outbox.put(attempt.id, attempt.token, body, unpublished))
        except OSError as error:
            if not disk_is_full(error):
                raise
            spare = [self._folder / "publish", self._parts.places.inputs]
            spare += [] if unpublished or body["manifest"] else [self._folder / "out"]
            log.warning("disk_full", attempt=attempt.id, removing=[str(folder) for folder in spare])
            for folder in spare:
                remove_tree(folder)
            outbox.put(attempt.id, attempt.token, body, unpublished)

    def _bring_out(self) -> None:
        """Moves out/ of a resident's room into the attempt's folder, where the outbox and the host look for it."""
        place = self._folder / "out"
        if self._parts.places.out != place and self._parts.places.out.is_dir() and not place.exists():
            self._parts.places.out.rename(place)

    def _unpublished(self, body: dict[str, Any]) -> str:
        """Why the complete result that the trainer left is not in `body`; empty where it left none."""
        if not isinstance(manifest_read(OutFolder(self._folder / "out", self._parts.out.owner)), Manifest):
            return ""
        return f"the attempt ended as {body['outcome']}: {(body['reason'] or {}).get('message', '')}"


def _reason_of(error: Exception) -> Reason:
    cause = disk_failure(error) if isinstance(error, OSError) else error
    if isinstance(cause, AttemptError):
        return cause.reason
    trace = "".join(traceback.format_exception(error))[-4000:]
    return reason(ReasonCode.INTERNAL, f"The worker broke: {type(error).__name__}.", trace)
