"""Reasons: what a person reads when a job does not succeed. Standard library and pydantic only."""

from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class ReasonCode(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE_LOSS = "non_finite_loss"
    BAD_DATASET = "bad_dataset"
    BAD_BASE_MODEL = "bad_base_model"
    BAD_ADAPTOR = "bad_adaptor"
    BAD_PARAMETERS = "bad_parameters"
    BAD_CHECKPOINT = "bad_checkpoint"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    MISSING_LIBRARY = "missing_library"
    NO_ACCELERATOR = "no_accelerator"
    DISK_FULL = "disk_full"
    OUTPUT_TOO_LARGE = "output_too_large"
    STORAGE_REFUSED = "storage_refused"
    INPUT_CORRUPT = "input_corrupt"
    NO_MANIFEST = "no_manifest"
    RESULT_REFUSED = "result_refused"
    NO_PROGRESS = "no_progress"
    WORKER_LOST = "worker_lost"
    POISON = "poison"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    DRAINED = "drained"
    REPO_NOT_FOUND = "repo_not_found"
    REVISION_NOT_FOUND = "revision_not_found"
    REPO_GATED = "repo_gated"
    HUB_UNREACHABLE = "hub_unreachable"
    ADDRESS_REFUSED = "address_refused"
    INTERNAL = "internal"


class Retry(StrEnum):
    """What happens to a job whose attempt ended for a reason. The API counts the tries and chooses the pauses."""

    NEVER = "never"
    """The job fails: its owner changes something first."""
    LATER = "later"
    """Back to the queue after growing pauses; the cause lies outside the job and the worker."""
    ELSEWHERE = "elsewhere"
    """Back to the queue for another worker, since this one is the cause; later also this one if there is no other."""
    ONLY_ELSEWHERE = "only_elsewhere"
    """Back to the queue for another worker; the job fails if none is left, since waiting does not help here."""
    OLDER_CHECKPOINT = "older_checkpoint"
    """Back to the queue with the previous checkpoint; the job fails if none is left."""
    LOSS = "loss"
    """Back to the queue; several in a row without a new checkpoint are poison."""
    FREE = "free"
    """Back to the queue, never counted."""


WORKER_SIDE = (Retry.ELSEWHERE, Retry.ONLY_ELSEWHERE)
"""Policies whose reasons count against the worker."""


class Meaning(NamedTuple):
    sentence: str
    hint: str
    retry: Retry = Retry.NEVER

    @property
    def retry_helps(self) -> bool:
        return self.retry != Retry.NEVER


MEANINGS: dict[ReasonCode, Meaning] = {
    ReasonCode.OUT_OF_MEMORY: Meaning(
        "The trainer ran out of memory.",
        "Lower train_batch_size or resolution and raise gradient_accumulation_steps to keep the global batch.",
    ),
    ReasonCode.NON_FINITE_LOSS: Meaning(
        "The loss or a gradient became NaN or infinite; the step was refused.",
        "Lower learning_rate, or train with mixed_precision no or bf16.",
    ),
    ReasonCode.BAD_DATASET: Meaning(
        "The dataset does not fit what the method expects.",
        "Mend the row that is named and upload a new version.",
    ),
    ReasonCode.BAD_BASE_MODEL: Meaning(
        "The base model is missing a part or is of a family that the method does not train.",
        "Choose a base model of a supported family.",
    ),
    ReasonCode.BAD_ADAPTOR: Meaning(
        "The adaptor does not fit the base model.",
        "Use the adaptor with the base model that it was trained on.",
    ),
    ReasonCode.BAD_PARAMETERS: Meaning(
        "The parameters do not go together with these inputs.",
        "Change the parameter that is named.",
    ),
    ReasonCode.BAD_CHECKPOINT: Meaning(
        "The checkpoint cannot be resumed by this job.",
        "Queue the job again from the start.",
    ),
    ReasonCode.CHECKPOINT_DAMAGED: Meaning(
        "The checkpoint to resume from is damaged or missing.",
        "Resume the job to start again from step 0: no older checkpoint is left.",
        Retry.OLDER_CHECKPOINT,
    ),
    ReasonCode.MISSING_LIBRARY: Meaning(
        "An optional library is not installed on the worker.",
        "Install the extra that is named on the worker.",
        Retry.ONLY_ELSEWHERE,
    ),
    ReasonCode.NO_ACCELERATOR: Meaning(
        "The accelerator that was assigned cannot be used.",
        "Check the driver on the worker's host.",
        Retry.ONLY_ELSEWHERE,
    ),
    ReasonCode.DISK_FULL: Meaning(
        "The worker's disk is full.",
        "Free space on the worker, or lower keep_checkpoints and the cache size.",
        Retry.ELSEWHERE,
    ),
    ReasonCode.OUTPUT_TOO_LARGE: Meaning(
        "The trainer wrote more than one attempt may.",
        "Lower keep_checkpoints, or raise ANNEAL_TRAINER_OUT_BYTES or ANNEAL_TRAINER_OUT_FILES on the worker.",
    ),
    ReasonCode.STORAGE_REFUSED: Meaning(
        "The storage refused to take or give a file.",
        "Check the storage service; the last checkpoint is kept.",
        Retry.LATER,
    ),
    ReasonCode.INPUT_CORRUPT: Meaning(
        "An input arrived with another digest than the one recorded.", "Upload the input again.", Retry.LATER
    ),
    ReasonCode.NO_MANIFEST: Meaning(
        "The trainer ended without a whole manifest, so its result is not complete.",
        "Read the end of the log; resume from the last checkpoint.",
    ),
    ReasonCode.RESULT_REFUSED: Meaning(
        "The API refused the result of the attempt.",
        "The result lies in refused/<attempt>/ of the worker's state folder; docs/worker.md says how to hand it in.",
    ),
    ReasonCode.NO_PROGRESS: Meaning(
        "The trainer was alive but made no progress for too long.",
        "Read the end of the log; raise no_progress_timeout if a step really takes that long.",
    ),
    ReasonCode.WORKER_LOST: Meaning(
        "The worker stopped answering.",
        "The job goes back to the queue and resumes from its last checkpoint.",
        Retry.LOSS,
    ),
    ReasonCode.POISON: Meaning(
        "The job lost its worker several times in a row without a new checkpoint.",
        "Look for what kills the worker (memory, disk, driver), then resume the job.",
    ),
    ReasonCode.PREEMPTED: Meaning(
        "The worker had to give its place away.", "The job goes back to the queue and resumes by itself.", Retry.FREE
    ),
    ReasonCode.CANCELLED: Meaning("The job was cancelled.", "Resume it to go on from its last checkpoint."),
    ReasonCode.PAUSED: Meaning("The job was paused.", "Resume it to go on from its last checkpoint."),
    ReasonCode.DRAINED: Meaning(
        "The worker was drained.", "The job goes back to the queue and resumes on another worker.", Retry.FREE
    ),
    ReasonCode.REPO_NOT_FOUND: Meaning(
        "The Hub has no such repository.",
        "Look at the spelling of repo: owner/name as the Hub shows it.",
    ),
    ReasonCode.REVISION_NOT_FOUND: Meaning(
        "The repository has no such revision.",
        "Choose a branch, tag or commit that the Hub lists.",
    ),
    ReasonCode.REPO_GATED: Meaning(
        "The Hub does not let this job read the repository.",
        "Accept its terms on the Hub, keep a token as a project secret of kind hub, name it in the job's secrets.",
    ),
    ReasonCode.HUB_UNREACHABLE: Meaning(
        "The Hub does not answer.", "Resume the job later; what is there already is not fetched again.", Retry.LATER
    ),
    ReasonCode.ADDRESS_REFUSED: Meaning(
        "The address leads into a private network or is not https.",
        "Ask the operator to list the Hub in ANNEAL_HUB_ENDPOINTS if it shall be reached.",
    ),
    ReasonCode.INTERNAL: Meaning(
        "The trainer failed for a reason that Anneal does not know.",
        "Read the end of the log; if it is our fault, report it with the log.",
    ),
}


class Reason(BaseModel):
    """Why a job did not succeed: `code` for programs, the rest for people."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: ReasonCode
    message: str
    hint: str
    retry_helps: bool
    detail: str = ""
    """End of the log; or what was expected, what was received, and where."""


def reason(code: ReasonCode, message: str = "", detail: str = "") -> Reason:
    """The Reason for `code`. `message` says what exactly happened; empty = the sentence of MEANINGS."""
    meaning = MEANINGS[code]
    return Reason(
        code=code,
        message=message or meaning.sentence,
        hint=meaning.hint,
        retry_helps=meaning.retry_helps,
        detail=detail,
    )


class TrainerError(Exception):
    """Raised inside a trainer if the cause is known; `trainers.job` turns it into the event `failed`."""

    def __init__(self, code: ReasonCode, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason(code, message, detail)
