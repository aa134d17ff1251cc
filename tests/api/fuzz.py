"""Every operation of an OpenAPI description called with made-up values; what comes back is held against it."""

from dataclasses import dataclass
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.patience import PATIENCE_SECONDS

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LEFT_OUT = ("logout",)
"""It would end the caller's token for all that follow."""


@dataclass(frozen=True)
class Target:
    url: str
    callers: dict[str, dict[str, str]]
    """Headers, by who it is; each made-up request is sent by all of them."""
    names: dict[str, str]
    """Of records that exist."""


def fuzz(description: dict[str, Any], target: Target, num_examples: int) -> list[str]:
    """One sentence for each operation that answered otherwise than it says."""
    schema = schemathesis.openapi.from_dict(description)
    wrong = []
    with requests.Session() as session:
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.definition.raw.get("operationId") in LEFT_OUT:
                continue
            message = _tried(operation, session, target, num_examples)
            wrong += [f"{operation.label}: {message}"] if message else []
    return wrong


def _tried(operation: Any, session: requests.Session, target: Target, num_examples: int) -> str:
    """What was wrong, or nothing. Half of the values are as described, half are not."""
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    who = ""

    @hypothesis.given(case=cases, real=st.booleans())
    @hypothesis.settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: Case, real: bool) -> None:
        nonlocal who
        if real:
            for name in case.path_parameters:
                case.path_parameters[name] = real_name(operation.path, name, target.names)
        for who, headers in target.callers.items():  # noqa: B007 told when a check raises
            answer = case.call(base_url=target.url, session=session, headers=headers, timeout=PATIENCE_SECONDS)
            case.validate_response(answer, checks=CHECKS)

    try:
        check()
    except hypothesis.errors.Unsatisfiable:
        return ""
    except (Failure, FailureGroup, BaseExceptionGroup) as error:
        return f"as {who}: {_sentence(error)}"
    return ""


def real_name(path: str, variable: str, names: dict[str, str]) -> str:
    """By the word before the variable, or by its own name."""
    word = path.split(f"/{{{variable}}}")[0].rsplit("/", 1)[-1]
    return names.get(f"{word}/{variable}") or names.get(variable) or names.get(word, "x")


def _sentence(error: BaseException) -> str:
    inner = getattr(error, "exceptions", (error,))
    return "; ".join(str(one)[:1500] for one in inner[:3])
