"""Parameters of `merge`."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from trainers.contract.params.base import Params, Product, scales_check
from trainers.contract.params.import_adaptor import ADAPTOR_NAME

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs


class MergeParams(Params):
    """Adds adaptors to a base model's weights, once and for all: the result is a base model of its own."""

    method: ClassVar[str] = "merge"
    summary: ClassVar[str] = "Make a base model of another one with adaptors added to its weights."
    entry: ClassVar[str] = "trainers.methods.merge:merge"
    product: ClassVar[Product] = "model"
    obeys_control: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("model", "adaptors")

    name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the base model that the job makes; a second job of the same name makes its next version."""
    scales: tuple[float, ...] = ()
    """Strength of each adaptor in the order of the job's adaptors; empty = 1.0 each."""

    def check_inputs(self, inputs: "Inputs") -> None:
        scales_check("scales", self.scales, inputs)
