"""Which accelerators a job gets: those of its request, and those of its parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from api.errors import Problem
from trainers.contract.params import METHODS, params_class
from trainers.contract.params.base import AcceleratorChoice, Params

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
    choice = _choice(method, params)
    if choice is None:
        return {"accelerators": default_count(), **resources}
    requested_count = resources.get("accelerators")
    if choice.indices:
        return _exactly(choice.parameter, list(choice.indices), requested_count, resources)
    if not choice.num_accelerators and _count(requested_count):
        raise _conflict(f"params.{choice.parameter} uses none, but resources.accelerators={requested_count}")
    if choice.num_accelerators and requested_count == 0:
        raise _conflict(f"params.{choice.parameter} needs one, but resources.accelerators=0")
    return {"accelerators": choice.num_accelerators, **resources}


def _exactly(parameter: str, indices: list[int], requested: Any, resources: Resources) -> Resources:
    """Those that the parameter lists; several run by ddp."""
    is_list = _is_list(requested)
    if requested is not None and (set(requested) != set(indices) if is_list else requested != len(indices)):
        raise _conflict(f"params.{parameter} names {indices}, but resources.accelerators={requested}")
    return {"strategy": "ddp" if len(indices) > 1 else "single", **resources, "accelerators": indices}


def devices_named(method: str, params: Mapping[str, Any]) -> bool:
    """Whether the parameters of a request select accelerators."""
    return any(name in params for name in params_class(method).device_fields)


def _choice(method: str | None, params: Mapping[str, Any]) -> AcceleratorChoice | None:
    """None if the parameters leave it to the resources, or are invalid and will be rejected."""
    kind: type[Params] | None = METHODS.get(method or "")
    if kind is None or not kind.device_fields:
        return None
    try:
        return kind.model_validate(params).accelerators()
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
