"""Previews a dataset for `masked_text`: the first rows as the training would draw them, with roles and masks."""

from itertools import islice
from typing import Any

from foundation.atomic import json_write
from trainers.contract.errors import TrainerError
from trainers.contract.events import Sample, Started
from trainers.contract.params.inspect_dataset import InspectDatasetParams
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.context import JobContext
from trainers.core.noise import Purpose
from trainers.text.data.batches import Noised, TextPlan, family_check, noised_at, prepare_batch, recipe_base, recipe_of
from trainers.text.data.chat import Encoded, Role, token_texts
from trainers.text.data.dataset import TextDataset, dataset_read
from trainers.text.models.base import TextBase
from trainers.text.models.load import load_tokens
from trainers.text.objective.corruption import mask_draw

TIME = 0.5
"""Diffusion time of the previewed rows."""
ROLES = {
    Role.SPECIAL: "special",
    Role.PROMPT: "prompt",
    Role.RESPONSE: "response",
    Role.FILL: "response",
    Role.BEFORE: "special",
}


def preview(job: JobContext[InspectDatasetParams]) -> dict[str, Any]:
    """The report of `inspect_dataset`: counts, errors that training would raise, and the first rows."""
    params = job.params.template()
    assert isinstance(params, MaskedTextParams)
    if job.spec.inputs.model is None:
        return _refused("a base model is needed to see tokens: its tokenizer makes them; name one")
    job.reporter.emit(Started(total=job.params.num_rows))
    try:
        base = load_tokens(job.model)
        family_check(params, base)
        base = recipe_base(base, params)
        dataset = dataset_read(job.with_params(params), base)
    except TrainerError as error:
        return _refused(error.reason.message)
    plan = _plan(params, dataset, job.processes.world_size)
    return {
        "refused": "",
        "faults": [],
        "stopped": False,
        **dataset.facts(),
        "steps_per_epoch": plan.steps_per_epoch,
        "samples": _samples(job, base, params, dataset, plan),
    }


def _refused(message: str) -> dict[str, Any]:
    return {"refused": message, "faults": [message], "samples": []}


def _plan(params: MaskedTextParams, dataset: TextDataset, world_size: int) -> TextPlan:
    return TextPlan(
        num_documents=len(dataset.trained),
        batch_size=params.batch_size,
        accumulation=params.gradient_accumulation_steps,
        world_size=world_size,
        seed=params.seed,
    )


def _samples(
    job: JobContext[InspectDatasetParams],
    base: TextBase,
    params: MaskedTextParams,
    dataset: TextDataset,
    plan: TextPlan,
) -> list[dict[str, Any]]:
    """The first rows as the training would draw them, with cutoffs and masks, but all at TIME."""
    recipe = recipe_of(params, base)

    def drawn_rows() -> Any:
        for step in range(plan.steps_per_epoch):
            rows = [dataset.trained[index] for index in plan.documents(step)]
            for position, document in enumerate(prepare_batch([dataset.documents[row] for row in rows], recipe, step)):
                draw_L = mask_draw(params.seed, Purpose.MASK, step, position, len(document.ids_L))
                where = dataset.places[rows[position]]
                yield step, position, where, document, noised_at(document, recipe, TIME, draw_L)

    samples = []
    for index, (step, position, where, document, noised) in enumerate(islice(drawn_rows(), job.params.num_rows)):
        details = {
            "where": where,
            "step": step + 1,
            "position": position,
            "time": TIME,
            "length": len(document.ids_L),
            "masked": int(noised.masked_L.sum()),
        }
        path = f"samples/row-{index:02d}.json"
        row = {"path": path, **details, "tokens": token_records(base, document, noised)}
        if job.processes.rank == 0:
            json_write(job.out / path, row)
        job.reporter.emit(Sample(step=0, path=path, label=where, details=details))
        samples.append(row)
    return samples


def token_records(base: TextBase, document: Encoded, noised: Noised) -> list[dict[str, Any]]:
    """A record per token: id, text, role (special, prompt, response), masked."""
    ids = document.ids_L.tolist()
    tokens = zip(ids, token_texts(base.tokenizer, ids), document.roles_L, noised.masked_L, strict=True)
    return [
        {
            "id": token,
            "text": text,
            "role": ROLES[Role(role)],
            "masked": bool(masked),
        }
        for token, text, role, masked in tokens
    ]
