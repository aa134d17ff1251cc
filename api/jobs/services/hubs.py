"""Which Hubs a job may fetch from: those that the operator lists. The trainer's guard looks at each connection."""

from api.environment import environment
from api.errors import Problem
from trainers.contract.params.base import Params


def hub_check(params: Params) -> None:
    """Raises Problem that names the field for an endpoint that is not listed."""
    endpoint = params.hub()
    allowed = environment().hubs
    if endpoint is None or endpoint in allowed or not params.connects():
        return
    said = f"{endpoint!r:.200} is not among the Hubs of this installation: {', '.join(allowed) or 'none'}"
    hint = "The operator lists Hubs in ANNEAL_HUB_ENDPOINTS."
    raise Problem("hub_not_allowed", f"params.endpoint: {said}.", hint=hint, fields={"params.endpoint": [said]})
