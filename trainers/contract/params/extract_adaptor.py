"""Parameters of `extract_adaptor`."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from trainers.contract.params.base import Params, Product
from trainers.contract.params.import_adaptor import ADAPTOR_NAME


class ExtractAdaptorParams(Params):
    """Makes a new adaptor of another one: at another strength, of a lower rank, or both."""

    method: ClassVar[str] = "extract_adaptor"
    summary: ClassVar[str] = "Make an adaptor of another strength or of a lower rank from one that is there."
    entry: ClassVar[str] = "trainers.methods.extract_adaptor:extract_adaptor"
    product: ClassVar[Product] = "adaptor"
    obeys_control: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("model", "adaptors")
    max_adaptors: ClassVar[int | None] = 1
    model_families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl", "sd3", "flux")

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    rank: int | None = Field(None, ge=1, le=256)
    """Rank that each layer's update is cut to, by its largest singular values; none = the rank that it has."""
    scale: float = Field(1.0, ge=-10, le=10)
    """What the update is multiplied by; at scale 1 the new adaptor does what the old one did at this scale."""
    no_metadata: bool = False
    """Leave out of the header of the kohya file what it is, of which base and how it is called."""

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
