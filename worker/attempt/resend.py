"""Uploads files of an ended trainer once more: the API missed them when the finish came."""

import time
from pathlib import Path
from typing import Any

import httpx
import structlog

from worker.attempt.outbox import Resend
from worker.attempt.publish import Publisher
from worker.client.api import Api
from worker.client.clock import boottime
from worker.client.lease import Lease
from worker.errors import AttemptError, FencedError, RefusedError
from worker.settings import Settings
from worker.transfer.files import remove_tree
from worker.transfer.out_folder import OutFolder, UnsafeFileError
from worker.transfer.transfer import Retry

log = structlog.get_logger()


def resend_with(api: Api, storage: httpx.Client, settings: Settings, owner: int | None = None) -> Resend:
    """`owner`: the user of the trainers' files, None = any."""

    def resend(attempt: str, token: str, out: Path, files: list[dict[str, Any]]) -> bool:
        attempt_api = api.attempt(attempt, token, Lease(boottime(), float("inf")))
        folder, staging = OutFolder(out, owner), out.with_name("again")
        publisher = Publisher(attempt_api, storage, folder, staging, settings.backoff_seconds)
        retry = Retry(settings.transfer_attempts, settings.backoff_seconds, time.sleep)
        try:
            for file in files:
                folder.stage(file["path"], staging / file["path"])
            publisher.upload([(file["path"], staging / file["path"]) for file in files], retry)
        except (AttemptError, RefusedError, FencedError, UnsafeFileError, OSError) as error:
            log.error("files_not_sent_again", attempt=attempt, error=str(error))
            return False
        finally:
            remove_tree(staging)
        return True

    return resend
