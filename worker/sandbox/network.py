"""What a job may connect to."""

from trainers.contract.params import params_class
from worker.client.payloads import Claim
from worker.sandbox.confine import Network


def network_of(claim: Claim, *, wrapped: bool) -> Network:
    """`wrapped`: a command of the operator's starts the trainer, perhaps as several processes.

    What the trainer itself would refuse connects to nothing.
    """
    try:
        params = params_class(claim.spec["method"]).model_validate(claim.spec["params"])
    except (KeyError, ValueError):
        connects = False
    else:
        connects = params.connects()
    if connects:
        return "any"
    return "ranks" if wrapped or claim.resources.strategy != "single" else "none"
