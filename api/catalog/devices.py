"""Which accelerators a job gets: those of its request, and those of its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from api.errors import Problem
from trainers.contract.params import METHODS
from trainers.contract.params.base import Params

WORDS = ("train_device", "gpu_ids")
"""Parameters that select accelerators, in methods that have them."""
Resources = dict[str, Any]


def resources_for(
    method: str | None,
    params: Mapping[str, Any],
    requested: Mapping[str, Any] | None,
    default_count: Callable[[], int],
) -> Resources:
    """`JobSpec.resources` from `requested` and the parameters. Raises Problem if they contradict each other.

    If neither selects accelerators, the job gets `default_count()` of the claiming worker's free ones.
    """
    resources = dict(requested or {})
    parsed = _params(method, params)
    if parsed is None:
        return {"accelerators": default_count(), **resources}
    requested_count = resources.get("accelerators")
    if parsed.gpu_ids != "auto":
        return _exactly([int(index) for index in parsed.gpu_ids.split(",")], requested_count, resources)
    if parsed.train_device in ("cpu", "tpu") and _count(requested_count):
        raise _conflict(
            f"params.train_device={parsed.train_device!r} uses none, but resources.accelerators={requested_count}"
        )
    if parsed.train_device == "cuda" and requested_count == 0:
        raise _conflict("params.train_device='cuda' needs one, but resources.accelerators=0")
    count = {"auto": default_count(), "cuda": 1}.get(parsed.train_device, 0)
    return {"accelerators": count, **resources}


def _exactly(indices: list[int], requested: Any, resources: Resources) -> Resources:
    """Those of params.gpu_ids; several run by ddp."""
    is_list = _is_list(requested)
    if requested is not None and (set(requested) != set(indices) if is_list else requested != len(indices)):
        raise _conflict(f"params.gpu_ids names {indices}, but resources.accelerators={requested}")
    return {"strategy": "ddp" if len(indices) > 1 else "single", **resources, "accelerators": indices}


def devices_named(params: Mapping[str, Any]) -> bool:
    """Whether the parameters of a request select accelerators."""
    return any(word in params for word in WORDS)


def _params(method: str | None, params: Mapping[str, Any]) -> Any:
    """With all defaults; None if the method has no such parameters, or the spec is invalid and will be rejected."""
    kind: type[Params] | None = METHODS.get(method or "")
    if kind is None or not set(WORDS) <= set(kind.model_fields):
        return None
    try:
        return kind.model_validate(params)
    except ValidationError:
        return None


def _is_list(requested: Any) -> bool:
    return isinstance(requested, (list, tuple))


def _count(requested: Any) -> Any:
    return len(requested) if _is_list(requested) else requested


def _conflict(message: str) -> Problem:
    hint = "Say it in one place: leave resources.accelerators out, or the parameters at auto."
    return Problem(
        "invalid", f"resources.accelerators: {message}.", hint=hint, fields={"resources.accelerators": [message]}
    )
