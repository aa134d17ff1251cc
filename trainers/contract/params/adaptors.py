"""Parameters of methods that make an adaptor of a file or of another adaptor, or merge adaptors into a base model."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from formats.models.image_families import FAMILIES
from foundation.plain_text import PlainLine
from trainers.contract.params.base import Params, Product, scales_check

ADAPTOR_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ImportAdaptorParams(Params):
    """Makes an adaptor of a LoRA file from elsewhere, with the names of diffusers or of kohya, after checking it."""

    method: ClassVar[str] = "import_adaptor"
    summary: ClassVar[str] = "Make an adaptor of a LoRA file that was trained elsewhere, after checking it."
    entry: ClassVar[str] = "trainers.methods.adaptors:import_adaptor"
    product: ClassVar[Product] = "adaptor"
    obeys_control: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("model", "dataset")
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "weights"
    model_families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    trigger_word: PlainLine = Field("", max_length=100)
    """What calls the adaptor in a prompt; empty = what the file's own header says, if it does."""
    no_metadata: bool = False
    """Leave out of the header of the kohya file what it is, of which base and how it is called."""

    @property
    def product_name(self) -> str:
        return self.adaptor_name

    @property
    def product_trigger_word(self) -> str:
        return self.trigger_word


class ExtractAdaptorParams(Params):
    """Makes a new adaptor of another one: at another strength, of a lower rank, or both."""

    method: ClassVar[str] = "extract_adaptor"
    summary: ClassVar[str] = "Make an adaptor of another strength or of a lower rank from one that is there."
    entry: ClassVar[str] = "trainers.methods.adaptors:extract_adaptor"
    product: ClassVar[Product] = "adaptor"
    obeys_control: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("model", "adaptors")
    max_adaptors: ClassVar[int | None] = 1
    model_families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    rank: int | None = Field(None, ge=1, le=256)
    """Rank that each layer's update is cut to, by its largest singular values; none = the rank that it has."""
    scale: float = Field(1.0, ge=-10, le=10)
    """What the update is multiplied by; at scale 1 the new adaptor does what the old one did at this scale."""
    no_metadata: bool = False
    """Leave out of the header of the kohya file what it is, of which base and how it is called."""

    @property
    def product_name(self) -> str:
        return self.adaptor_name

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `rank` or `scale` must be set, or the adaptor would be a copy.
        - `scale` 0 would leave nothing.
        """
        if self.rank is None and self.scale == 1:
            raise ValueError("rank is empty and scale=1.0, which would copy the adaptor; set rank, scale, or both")
        if self.scale == 0:
            raise ValueError("scale=0.0 would leave nothing of the adaptor; choose another scale")
        return self


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

    @property
    def product_name(self) -> str:
        return self.name

    def check_inputs(self, inputs: "Inputs") -> None:
        scales_check("scales", self.scales, inputs)
