"""Parameters of `import_model`."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainers.contract.params.addresses import origin_of
from trainers.contract.params.base import Params, Product
from trainers.contract.params.fetch import HUB, REPO, REVISION
from trainers.contract.params.import_adaptor import ADAPTOR_NAME
from trainers.contract.params.secrets import SecretNames

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs


class ImportModelParams(Params):
    """Makes a base model of a single-file checkpoint; the rest comes from a base of its family or from a Hub."""

    method: ClassVar[str] = "import_model"
    summary: ClassVar[str] = "Make a base model of a single-file checkpoint and a base model of the same family."
    entry: ClassVar[str] = "trainers.methods.import_model:import_model"
    product: ClassVar[Product] = "model"
    requires: ClassVar[tuple[str, ...]] = ("dataset",)
    accepts: ClassVar[tuple[str, ...]] = ("model",)
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "weights"
    model_families: ClassVar[tuple[str, ...]] = ("sd1", "sd2", "sdxl", "sd3", "flux")

    name: str = Field(min_length=1, max_length=100, pattern=ADAPTOR_NAME)
    """Name of the base model that the job makes; a second job of the same name makes its next version."""
    prediction_type: Literal["", "epsilon", "v_prediction"] = ""
    """What the network predicts; empty = as the file says, else epsilon. SD 2.x needs it where the file is silent."""
    repo: str = Field("", pattern=rf"^$|{REPO}")
    """Repository on a Hub, in diffusers format, that gives what the file lacks; empty = a base model gives it."""
    revision: str = Field("main", pattern=REVISION)
    """Branch, tag or commit of the repository."""
    endpoint: str = HUB
    """Address of the Hub; the operator lists those that are allowed in ANNEAL_HUB_ENDPOINTS."""
    secrets: SecretNames = ()
    """Project secrets that the job is given; one of kind hub signs in to gated and private repositories."""
    max_gigabytes: float = Field(200, gt=0, le=10_000)
    """Refuse a repository whose missing parts are larger together, in units of 1e9 bytes."""

    def hub(self) -> str | None:
        return self.endpoint

    def connects(self) -> bool:
        return bool(self.repo)

    def check_inputs(self, inputs: "Inputs") -> None:
        if inputs.model and self.repo:
            raise ValueError(f"inputs.model and repo={self.repo!r} both give what the file lacks; leave one out")
        if not inputs.model and not self.repo:
            raise ValueError(
                "what the file lacks comes from inputs.model, a base of its family, or from repo; give one of them"
            )

    @field_validator("endpoint")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/")

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        idle = "" if self.repo else self.changed("revision", "endpoint", "secrets", "max_gigabytes")
        if idle:
            raise ValueError(f"{idle} does nothing without repo; give one, or leave it out")
        return self
