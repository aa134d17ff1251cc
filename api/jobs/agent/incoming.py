"""What workers send: fields that a newer worker knows and this API does not are ignored."""

from pydantic import ConfigDict

from trainers.contract.spec import Contract


class Incoming(Contract):
    model_config = ConfigDict(extra="ignore")
