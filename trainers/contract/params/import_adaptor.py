"""Parameters of `import_adaptor`."""

from typing import ClassVar, Literal

from pydantic import Field

from foundation.plain_text import PlainLine
from trainers.contract.params.base import Params, Product

ADAPTOR_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ImportAdaptorParams(Params):
    """Makes an adaptor of a LoRA file from elsewhere, with the names of diffusers or of kohya, after checking it."""

    method: ClassVar[str] = "import_adaptor"
    summary: ClassVar[str] = "Make an adaptor of a LoRA file that was trained elsewhere, after checking it."
    entry: ClassVar[str] = "trainers.methods.import_adaptor:import_adaptor"
    product: ClassVar[Product] = "adaptor"
    obeys_control: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("model", "dataset")
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "weights"
    model_families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl", "sd3", "flux")

    adaptor_name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the adaptor that the job makes; a second job of the same name makes its next version."""
    trigger_word: PlainLine = Field("", max_length=100)
    """What calls the adaptor in a prompt; empty = what the file's own header says, if it does."""
    no_metadata: bool = False
    """Leave out of the header of the kohya file what it is, of which base and how it is called."""
