"""Parameters of `import_model`."""

from typing import ClassVar, Literal

from pydantic import Field

from trainers.params.base import Params, Product
from trainers.params.import_adaptor import ADAPTOR_NAME


class ImportModelParams(Params):
    """Makes a base model of a single-file checkpoint; what the file does not hold comes from a base of its family."""

    method: ClassVar[str] = "import_model"
    summary: ClassVar[str] = "Make a base model of a single-file checkpoint and a base model of the same family."
    entry: ClassVar[str] = "trainers.methods.import_model:import_model"
    product: ClassVar[Product] = "model"
    requires: ClassVar[tuple[str, ...]] = ("model", "dataset")
    dataset_kind: ClassVar[Literal["pictures", "rows", "weights"] | None] = "weights"
    model_families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl", "sd3", "flux")

    name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the base model that the job makes; a second job of the same name makes its next version."""
    prediction_type: Literal["", "epsilon", "v_prediction"] = ""
    """What the network predicts; empty = as the file says, else epsilon. SD 2.x needs it where the file is silent."""
