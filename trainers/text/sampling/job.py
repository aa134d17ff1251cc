"""Set-up of jobs that sample or evaluate text: the base model with its adaptors, and the decoding parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.decoding import DecodingParams
from trainers.core.context import JobContext
from trainers.core.distributed import single_process_check
from trainers.text.adaptors.lora import lora_remove, text_adaptors_apply
from trainers.text.models.base import TextBase
from trainers.text.models.load import load_text
from trainers.text.sampling.texts import Decoding

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEFAULT_NEW_TOKENS = 128


@contextmanager
def base_with_adaptors(job: JobContext[DecodingParams]) -> Iterator[TextBase]:
    """The job's base with every adaptor at its scale; removes the adaptors at the end, since the base is cached."""
    single_process_check(job.processes, job.spec.method)
    base = _base_of(job)
    before = base.shift, base.bos_first
    try:
        _adaptors_apply(job, base)
        if problem := job.params.shift_problem(base.shift):
            raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)
        yield base
    finally:
        lora_remove(base)
        base.shift, base.bos_first = before


def decoding_of(params: DecodingParams) -> Decoding:
    """Decoding parameters of the job, with defaults where `params` has none."""
    return Decoding(
        max_new_tokens=params.max_new_tokens or DEFAULT_NEW_TOKENS,
        steps=params.steps,
        block_size=params.block_size,
        remasking=params.remasking or "low_confidence",
        alg=params.alg or ("entropy" if params.threshold is None else "maskgit_plus"),
        temperature=params.temperature,
        cfg_scale=params.cfg_scale,
        suppress_tokens=params.suppress_tokens,
        alg_temp=params.alg_temp or 0.0,
        top_p=params.top_p or 1.0,
        top_k=params.top_k or 0,
        eps=params.eps or 1e-3,
        cache=params.cache,
        threshold=params.threshold,
    )


def suppressed_check(params: DecodingParams, base: TextBase) -> None:
    """Raises TrainerError(BAD_PARAMETERS) if a token of suppress_tokens does not exist, or if no token is left."""
    if unknown := [token for token in params.suppress_tokens if not 0 <= token < base.vocab_size]:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"suppress_tokens has {unknown[0]}, but the base model's tokens are 0 to {base.vocab_size - 1}",
        )
    if len({*params.suppress_tokens, base.mask_id}) >= base.vocab_size:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, "suppress_tokens leaves no token to choose")


def _base_of(job: JobContext[DecodingParams]) -> TextBase:
    model, params, device = job.spec.inputs.model, job.params, job.processes.device
    assert model is not None, "JobSpec requires a base model"
    dtype = DTYPES[params.dtype]

    def load() -> TextBase:
        return load_text(job.model, dtype, device, quantization="nf4" if params.load_in_4bit else "none")

    base: TextBase = job.models.get((model.sha256, dtype, params.load_in_4bit, device), load)
    return base


def _adaptors_apply(job: JobContext[DecodingParams], base: TextBase) -> None:
    inputs = job.spec.inputs
    assert inputs.model is not None
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    scales = job.params.adaptor_scales or (1.0,) * len(folders)
    text_adaptors_apply(base, inputs.model, inputs.adaptors, folders, scales)
