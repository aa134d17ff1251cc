"""Parameters of `inspect_dataset`."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainers.contract.params.base import Params, Product
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.masked_text import MaskedTextParams

TEMPLATES: dict[str, type[Params]] = {"image_lora": ImageLoraParams, "masked_text": MaskedTextParams}
UNNAMED = {"adaptor_name": "preview"}


class InspectDatasetParams(Params):
    """Shows what a training job would see of a dataset, and what is wrong with it, without training."""

    method: ClassVar[str] = "inspect_dataset"
    summary: ClassVar[str] = (
        "Show what a training job would see of a dataset: crops, captions, tokens, and what is wrong."
    )
    entry: ClassVar[str] = "trainers.methods.inspect_dataset:inspect"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("dataset",)
    accepts: ClassVar[tuple[str, ...]] = ("model", "further_datasets")

    template_method: Literal["image_lora", "masked_text"] = "image_lora"
    """The method that would train."""
    template_params: dict[str, Any] = Field(default_factory=dict)
    """Its parameters, as in a template; what is left out has its default, and adaptor_name may be."""
    num_rows: int = Field(8, ge=1, le=64)
    """How many samples are shown, in the order in which the training would draw them."""

    @model_validator(mode="after")
    def _template_is_valid(self) -> Self:
        """
        - `template_params` must be valid parameters of `template_method`.
        """
        self.template()
        return self

    def family_problem(self, family: str) -> str:
        return self.template().family_problem(family)

    def split_of(self, splits: Sequence[str]) -> str:
        return self.template().split_of(splits)

    def template(self) -> Params:
        """The parameters of the training job that is previewed."""
        return TEMPLATES[self.template_method].model_validate(UNNAMED | self.template_params)
