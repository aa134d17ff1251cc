"""Which attempts may follow one another in one trainer."""

import json

from trainers.contract.params import params_class
from worker.client.payloads import Claim


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
