"""Parameters of `evaluate_text`."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from formats.datasets.splits import split_evaluated
from trainers.contract.params.base import SPLIT, Product
from trainers.contract.params.decoding import DECODING, TEXT_FAMILIES, DecodingParams


class EvaluateTextParams(DecodingParams):
    """Measures a text-diffusion model on rows: a bound of their likelihood, and how many it answers exactly."""

    method: ClassVar[str] = "evaluate_text"
    summary: ClassVar[str] = "Measure a text-diffusion model on rows: likelihood bound, exact match of answers."
    entry: ClassVar[str] = "trainers.methods.evaluate_text:evaluate"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("dataset", "model")
    accepts: ClassVar[tuple[str, ...]] = ("adaptors",)
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "text"
    model_families: ClassVar[tuple[str, ...]] = TEXT_FAMILIES
    resident_fields: ClassVar[tuple[str, ...]] = ("dtype", "load_in_4bit")

    measure: Literal["both", "likelihood", "exact_match"] = "both"
    """The bound of the likelihood of each row's answer (or plain text), exact answers, or both."""
    split: str = Field("", pattern=rf"^$|{SPLIT}")
    """Which split of the dataset; empty = test, else validation, else all rows."""
    num_rows: int = Field(100, ge=0, le=1_000_000)
    """How many of the split's first rows; 0 = all."""
    input_template: str = Field("", max_length=20_000)
    """Jinja template of the prompt over the row's columns; needs output_template."""
    output_template: str = Field("", max_length=20_000)
    """Jinja template of the expected answer; needs input_template."""
    num_noises: int = Field(16, ge=1, le=4096)
    """Noised copies of each row for the bound, of evenly spread shares of masked tokens."""
    answer_format: Literal["auto", "gsm8k", "plain"] = "auto"
    """gsm8k compares the numbers after ####, plain the whole answer; auto = gsm8k where #### is expected."""

    def split_of(self, splits: Sequence[str]) -> str:
        return split_evaluated(splits, self.split)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `input_template` and `output_template` go together.
        - `measure` likelihood decodes nothing, exact_match noises nothing.
        """
        if self.measure == "likelihood" and (idle := self.changed("answer_format", *DECODING)):
            raise ValueError(f"{idle} does nothing with measure='likelihood'; leave it out")
        if self.measure == "exact_match" and (idle := self.changed("num_noises")):
            raise ValueError(f"{idle} does nothing with measure='exact_match'; leave it out")
        if bool(self.input_template) != bool(self.output_template):
            raise ValueError("input_template and output_template go together; write both or none")
        return self
