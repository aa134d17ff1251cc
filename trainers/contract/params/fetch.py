"""Parameters of methods that fetch from a Hugging Face Hub: a dataset, a base model, the parts that a file lacks."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from formats.models.image_families import FAMILIES
from trainers.contract.params.adaptors import ADAPTOR_NAME
from trainers.contract.params.addresses import origin_of
from trainers.contract.params.base import SPLIT, Params, Product, SecretNames

HUB = "https://huggingface.co"
REPO = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$"
RECORD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""The same rule as for names in the catalog."""
CONFIG = r"^[\w.-]*$"
Patterns = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=50)]


class FetchParams(Params):
    """Fields of `fetch_model` and `fetch_dataset`. Not a method of its own."""

    requires: ClassVar[tuple[str, ...]] = ()

    name: str = Field(pattern=RECORD)
    """Name of the dataset or base model that the files become a version of; made where it is not there."""
    repo: str = Field(pattern=REPO)
    """The repository on the Hub: owner/name."""
    revision: str = Field("main", pattern=REVISION)
    """Branch, tag or commit. The commit that it means on that day is recorded in the version."""
    allow: Patterns = ()
    """Only files that match one of these patterns, as unet/*; empty = all of safe kinds."""
    ignore: Patterns = ()
    """Files that match one of these patterns are left out, as *.fp16.safetensors."""
    endpoint: str = HUB
    """Address of the Hub; the operator lists those that are allowed in ANNEAL_HUB_ENDPOINTS."""
    secrets: SecretNames = ()
    """Project secrets that the job is given; one of kind hub signs in to gated and private repositories."""
    max_gigabytes: float = Field(200, gt=0, le=10_000)
    """Refuse a repository whose chosen files are larger together, in units of 1e9 bytes."""

    @property
    def product_name(self) -> str:
        return self.name

    @property
    def secret_names(self) -> SecretNames:
        return self.secrets

    def hub(self) -> str | None:
        return self.endpoint

    def hub_source(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "repo": self.repo, "revision": self.revision}

    def connects(self) -> bool:
        return True

    @field_validator("endpoint")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        origin_of(value)
        return value.rstrip("/")


class FetchModelParams(FetchParams):
    method: ClassVar[str] = "fetch_model"
    summary: ClassVar[str] = "Download a base model (diffusers format, or a language model) from a Hugging Face Hub."
    entry: ClassVar[str] = "trainers.methods.base_models:fetch_model"
    product: ClassVar[Product] = "model"

    family: str = Field("", max_length=20, pattern=r"^[a-z0-9_]*$")
    """Refuse a model of another family than this, as sdxl or llada; empty = any that is supported."""


class FetchDatasetParams(FetchParams):
    method: ClassVar[str] = "fetch_dataset"
    summary: ClassVar[str] = "Download a dataset from a Hugging Face Hub."
    entry: ClassVar[str] = "trainers.methods.fetch_dataset:fetch"
    product: ClassVar[Product] = "dataset"

    config: str = Field("", max_length=100, pattern=CONFIG)
    """Configuration of a repository that has several, as main or socratic; empty = its default one."""
    split: str = Field("", pattern=rf"^$|{SPLIT}")
    """Only this split, as train or test; empty = all, each kept apart."""

    def hub_source(self) -> dict[str, str]:
        chosen = {"config": self.config, "split": self.split}
        return super().hub_source() | {name: value for name, value in chosen.items() if value}


if TYPE_CHECKING:
    from trainers.contract.spec import Inputs


class ImportModelParams(Params):
    """Makes a base model of a single-file checkpoint; the rest comes from a base of its family or from a Hub."""

    method: ClassVar[str] = "import_model"
    summary: ClassVar[str] = "Make a base model of a single-file checkpoint and a base model of the same family."
    entry: ClassVar[str] = "trainers.methods.base_models:import_model"
    product: ClassVar[Product] = "model"
    requires: ClassVar[tuple[str, ...]] = ("dataset",)
    accepts: ClassVar[tuple[str, ...]] = ("model",)
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "weights"
    model_families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)

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

    @property
    def product_name(self) -> str:
        return self.name

    @property
    def secret_names(self) -> SecretNames:
        return self.secrets

    def hub(self) -> str | None:
        return self.endpoint

    def hub_source(self) -> dict[str, str]:
        return {} if not self.repo else {"endpoint": self.endpoint, "repo": self.repo, "revision": self.revision}

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
