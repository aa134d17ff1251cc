"""What a job of a template would see: an inspect_dataset job, made out of the template."""

from typing import Any

from pydantic import Field

from api.accounts.models import Project
from api.catalog.selectors import template_version
from api.errors import Problem
from api.jobs.models import Job
from api.jobs.services.enqueue import params_laid
from api.jobs.services.submit import JobRequest, job_create
from trainers.contract.params.inspect_dataset import TEMPLATES
from trainers.contract.spec import Contract

METHOD = "inspect_dataset"


class PreviewRequest(Contract):
    """What is given here wins over the template."""

    params: dict[str, Any] = Field({})
    """Laid over the template's, key by key; null takes one out."""
    dataset: str | None = None
    """name or name@version"""
    model: str | None = None
    num_rows: int = Field(8, ge=1, le=64)
    """How many samples are shown."""
    pool: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,49}$")


def preview_create(*, project: Project, template: str, request: PreviewRequest, by: str) -> Job:
    """The queued job, which needs no accelerator. Raises Problem for a template of a method that reads no dataset."""
    content = template_version(project, template, "name").content
    if content["method"] not in TEMPLATES:
        said = f"a template of {content['method']} has no preview; those of {', '.join(TEMPLATES)} have"
        raise Problem("invalid", f"name: {said}.", fields={"name": [said]})
    asked = JobRequest(
        name=f"preview of {template}",
        method=METHOD,
        params={
            "template_method": content["method"],
            "template_params": params_laid(content["params"], request.params),
            "num_rows": request.num_rows,
        },
        dataset=request.dataset or content["dataset"],
        further_datasets=[] if request.dataset else content.get("further_datasets"),
        model=request.model or content["model"],
        resources={"accelerators": 0},
        pool=request.pool or content["pool"],
    )
    return job_create(project=project, request=asked, by=by)[0]
