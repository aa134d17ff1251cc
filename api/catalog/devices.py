"""Which accelerators a job gets: those that its request names, and those that its parameters do."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from api.errors import Problem
from trainers.contract.params import METHODS
from trainers.contract.params.base import Params

WORDS = ("train_device", "gpu_ids")
"""Parameters that name accelerators, in methods that have them."""
Resources = dict[str, Any]


def resources_for(
    method: str | None,
    params: Mapping[str, Any],
    requested: Mapping[str, Any] | None,
    default_count: Callable[[], int],
) -> Resources:
    """`JobSpec.resources` of a request: `requested`, and what the parameters say. Raises Problem where the two differ.

    Where neither names any, the job gets `default_count()` of the claiming worker's free accelerators.
    """
    resources = dict(requested or {})
    found = _params(method, params)
    if found is None:
        return {"accelerators": default_count(), **resources}
    asked = resources.get("accelerators")
    if found.gpu_ids != "auto":
        return _exactly([int(index) for index in found.gpu_ids.split(",")], asked, resources)
    if found.train_device in ("cpu", "tpu") and _count(asked):
        raise _conflict(f"params.train_device={found.train_device!r} uses none, but resources.accelerators={asked}")
    if found.train_device == "cuda" and asked == 0:
        raise _conflict("params.train_device='cuda' needs one, but resources.accelerators=0")
    wanted = {"auto": default_count(), "cuda": 1}.get(found.train_device, 0)
    return {"accelerators": wanted, **resources}


def _exactly(named: list[int], asked: Any, resources: Resources) -> Resources:
    """Those of params.gpu_ids; several run by ddp."""
    if asked is not None and (set(asked) != set(named) if _is_list(asked) else asked != len(named)):
        raise _conflict(f"params.gpu_ids names {named}, but resources.accelerators={asked}")
    return {"strategy": "ddp" if len(named) > 1 else "single", **resources, "accelerators": named}


def devices_named(params: Mapping[str, Any]) -> bool:
    """Whether parameters that a request gives say where it runs."""
    return any(word in params for word in WORDS)


def _params(method: str | None, given: Mapping[str, Any]) -> Any:
    """With all defaults; None where the method names no accelerators, or the whole spec will be refused anyway."""
    kind: type[Params] | None = METHODS.get(method or "")
    if kind is None or not set(WORDS) <= set(kind.model_fields):
        return None
    try:
        return kind.model_validate(given)
    except ValidationError:
        return None


def _is_list(asked: Any) -> bool:
    return isinstance(asked, (list, tuple))


def _count(asked: Any) -> Any:
    return len(asked) if _is_list(asked) else asked


def _conflict(said: str) -> Problem:
    hint = "Say it in one place: leave resources.accelerators out, or the parameters at auto."
    return Problem("invalid", f"resources.accelerators: {said}.", hint=hint, fields={"resources.accelerators": [said]})
