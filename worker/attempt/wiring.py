"""Builds the parts of one attempt and connects them: what runs them is worker.attempt.agent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import structlog

from foundation.protocol import LOADING
from trainers.contract.params import params_class
from worker.attempt.control import ControlFile, Deadlines, StopRequest
from worker.attempt.event_sender import EventSender
from worker.attempt.heartbeat import Heartbeat
from worker.attempt.outbox import Outbox, RefusedResults
from worker.attempt.output import EventTail, LogSpool, Masker
from worker.attempt.publish import Publisher
from worker.attempt.trainer_monitor import LiveFiles, TrainerMonitor
from worker.client.api import Api, AttemptApi
from worker.client.lease import Lease
from worker.client.payloads import Claim, Timings
from worker.process.launch import Executor, Launch, Places, Room, places_in, room_in, secrets_in
from worker.sandbox.confine import Network
from worker.sandbox.wall import Wall
from worker.settings import Settings
from worker.transfer.cache import InputCache
from worker.transfer.out_folder import OutBounds, OutFolder
from worker.transfer.room import Reserve

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
class AttemptParts:
    """What one agent works with; each part has one task and knows the others only by what is passed to it here."""

    reuse_key: str
    """See `reuse_key`; "" where the trainer ends with the attempt."""
    room: Room | None
    """Of the resident that may run it."""
    places: Places
    out: OutFolder
    stop_request: StopRequest
    lease: Lease
    api: AttemptApi
    spool: LogSpool
    control: ControlFile
    sender: EventSender
    publisher: Publisher
    monitor: TrainerMonitor
    heartbeat: Heartbeat
    deadlines: Deadlines


def parts_of(tools: Tools, claim: Claim, folder: Path, sent_at: float) -> AttemptParts:
    """sent_at: when the claim was sent, on CLOCK_BOOTTIME."""
    settings, times = tools.settings, tools.times
    key = reuse_key(claim) if settings.resident_models else ""
    room = room_in(settings.state_dir / "residents", key, claim.accelerators) if key else None
    places = room.places(claim.attempt.id) if room else places_in(folder)
    out = OutFolder(places.out, tools.wall.user.uid if tools.wall.user else None)
    stop_request = StopRequest(settings.drain_seconds)
    lease = Lease(sent_at, times.self_fence_seconds)
    api = tools.api.attempt(claim.attempt.id, claim.attempt.token, lease)
    secrets = (settings.worker_token, claim.attempt.token, *claim.secrets.values(), *secrets_in(tools.environ))
    masker = Masker(secrets)
    spool = LogSpool(folder / "log", masker, settings.log_bytes)
    control = ControlFile(places.inputs / "control", claim.attempt.n)
    sender = EventSender(api, control, spool, settings.backoff_seconds, settings.publish_seconds)
    publisher = Publisher(api, tools.storage, out, folder / "publish", settings.backoff_seconds)
    monitor = TrainerMonitor(
        tail=EventTail(out, masker),
        sender=sender,
        publisher=publisher,
        control=control,
        lease=lease,
        stop_request=stop_request,
        stop_grace_seconds=claim.stop_grace_seconds,
        no_progress_seconds=claim.no_progress_seconds,
        kill_seconds=times.kill_seconds,
        on_first_event=lambda: heartbeat.enter(LOADING),
        live_files=LiveFiles(out, publisher, settings.tensorboard_seconds),
        out_bounds=OutBounds(
            (out, OutFolder(places.tmp)),
            most_files=settings.trainer_out_files,
            most_bytes=settings.trainer_out_bytes,
        ),
    )

    heartbeat = Heartbeat(
        api,
        lease,
        fence=claim.attempt.fence,
        interval_seconds=times.heartbeat_seconds,
        progress_seq=lambda: monitor.progress_seq,
        on_answer=lambda answer: _obey(answer, stop_request, control),
    )
    return AttemptParts(
        reuse_key=key,
        room=room,
        places=places,
        out=out,
        stop_request=stop_request,
        lease=lease,
        api=api,
        spool=spool,
        control=control,
        sender=sender,
        publisher=publisher,
        monitor=monitor,
        heartbeat=heartbeat,
        deadlines=Deadlines(lease, stop_request),
    )


def _obey(answer: dict[str, Any], stop_request: StopRequest, control: ControlFile) -> None:
    """Carries out what the answer to a heartbeat requests."""
    if answer.get("stop"):
        stop_request.stop(answer["stop"])
    if command := answer.get("control"):
        try:
            control.request(command["command"], command["seq"])
        except OSError as error:  # the next heartbeat requests it again; the heartbeat must not stop for it
            log.warning("control_not_written", command=command["command"], error=str(error))


def launch_of(tools: Tools, claim: Claim, folder: Path, parts: AttemptParts) -> Launch:
    return Launch(
        attempt=claim.attempt.id,
        folder=folder,
        places=parts.places,
        project=claim.project,
        resources=claim.resources,
        accelerators=claim.accelerators,
        kill_seconds=tools.times.kill_seconds,
        deadline=parts.lease.deadline,
        network=network_of(claim, wrapped=bool(tools.settings.trainer_command)),
        reuse_key=parts.reuse_key,
        can_be_forked=can_be_forked(claim),
        secrets=claim.secrets,
    )


def can_be_forked(claim: Claim) -> bool:
    """Whether the job needs nothing that a trainer must have when it imports libraries.

    That is several ranks, secrets, optional libraries, and the Hub's folders, which its library reads at import.
    """
    if claim.secrets or claim.resources.strategy != "single":
        return False
    try:
        params = params_class(claim.spec["method"]).model_validate(claim.spec["params"])
    except (KeyError, ValueError):
        return False
    return not params.libraries() and not params.connects()


def reuse_key(claim: Claim) -> str:
    """Equal for attempts whose trainer may stay in memory from one to the other; "" where it must not.

    A resident serves one project. A job that names secrets never shares a process, nor one of several processes.
    What the trainer itself would refuse is left to it.
    """
    spec = claim.spec
    model = (spec.get("inputs") or {}).get("model")
    if claim.secrets or not model or claim.resources.strategy != "single":
        return ""
    try:
        params = params_class(spec["method"]).model_validate(spec["params"])
    except (KeyError, ValueError):
        return ""
    if not params.resident_fields:
        return ""
    fields = [getattr(params, name) for name in params.resident_fields]
    return json.dumps([claim.project, spec["method"], model["sha256"], *fields])


def network_of(claim: Claim, *, wrapped: bool) -> Network:
    """`wrapped`: a command of the operator's starts the trainer, perhaps as several processes.

    What the trainer itself would refuse connects to nothing.
    """
    try:
        params = params_class(claim.spec["method"]).model_validate(claim.spec["params"])
    except (KeyError, ValueError):
        connects = False
    else:
        connects = params.connects()
    if connects:
        return "any"
    return "ranks" if wrapped or claim.resources.strategy != "single" else "none"
