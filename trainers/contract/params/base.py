"""The base class of every method's parameters. Standard library and pydantic only."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs, Resources

SPLIT = r"^[A-Za-z0-9][\w.-]{0,99}$"
SECRET_NAME = r"^[a-z][a-z0-9_]{0,49}$"
SecretNames = Annotated[tuple[Annotated[str, Field(pattern=SECRET_NAME)], ...], Field(max_length=10)]
Product = Literal["adaptor", "samples", "dataset", "model"]


class AcceleratorChoice(NamedTuple):
    """The accelerators that a job's parameters ask for."""

    parameter: str
    """What asks for them, for errors: `gpu_ids`, `train_device='cpu'`."""
    num_accelerators: int
    indices: tuple[int, ...] = ()
    """Exactly these; empty = any."""


class ImageSampling(NamedTuple):
    """What a job that makes images from a prompt was asked for."""

    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    """One for each image, or for each row of a comparison."""
    compare: bool
    adaptor_scales: tuple[float, ...]
    """In the order of the job's adaptors; empty = 1.0 each."""


class Params(BaseModel):
    """Base of all parameter classes: frozen, unknown keys refused.

    The docstring under a field is its help in the API, the form, the command line and the reference page.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True
    )

    method: ClassVar[str]
    """Name of the method, as in `JobSpec.method`."""
    summary: ClassVar[str]
    """One sentence for lists and help."""
    entry: ClassVar[str]
    """Dotted path of the function that runs it, loaded by `trainers.run`: `package.module:function`."""
    product: ClassVar[Product]
    """What a succeeded job of this method leaves."""
    requires: ClassVar[tuple[str, ...]]
    """Inputs that must be present."""
    accepts: ClassVar[tuple[str, ...]] = ()
    """Inputs that may be present too."""
    max_adaptors: ClassVar[int | None] = None
    """How many adaptors it can take; None = any number."""
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = None
    """What the dataset must hold, as the check at upload found it; None = anything."""
    model_families: ClassVar[tuple[str, ...]] = ()
    """Families of the base models that it takes, as the check at upload found them; empty = any."""

    obeys_control: ClassVar[bool] = True
    """Whether a running job reads commands and SIGTERM at its boundaries; False: SIGTERM ends it at once."""
    resident_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that say, with the base model, what stays in memory for the next job of this method; empty = nothing."""

    chooses_sampler: ClassVar[bool] = False
    """Whether the parameters may name a sampler other than the base model's; one of them needs scipy."""
    dataset_files: ClassVar[tuple[str, ...]] = ()
    """Fields that name a file of the job's dataset."""
    device_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that `accelerators` reads."""
    prompt_field: ClassVar[str] = ""
    """Field with the prompt that images are made from; empty = the method has no `image_sampling`."""

    foreign_names: ClassVar[dict[str, str]] = {}
    """Our parameter by its name in another tool; the error for such a name suggests ours."""

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """The parameters of a stored job; not validated again, since this release may be stricter than the job's."""
        return cast(Self, cls.model_construct(**values))  # pydantic's mypy plugin takes it for Params

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_known_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._with_suggestion(one) for one in error.errors()]
            ) from None

    @classmethod
    def _with_suggestion(cls, one: Any) -> InitErrorDetails:
        name = str(one["loc"][-1]) if one["loc"] else ""
        renamed = [cls.foreign_names[name]] if name in cls.foreign_names else []
        close = renamed or (get_close_matches(name, cls.model_fields, n=1) if name else [])
        kind = one["type"]
        if kind == "extra_forbidden" and close:
            kind = PydanticCustomError(
                "unknown_parameter", "is not known here; did you mean {name}?", {"name": close[0]}
            )
        return InitErrorDetails(type=kind, loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))

    @classmethod
    def imported(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The values of an imported template without what another tool's form adds to no effect; and notes on those."""
        return dict(values), []

    def products(self) -> tuple[Product, ...]:
        """What a succeeded job with these parameters leaves, if parameters can change it."""
        return (self.product,)

    def libraries(self) -> tuple[str, ...]:
        """Optional Python modules that these parameters need; the job's process can import no others."""
        return ()

    def hub(self) -> str | None:
        """Address of the Hub that the job fetches from; None = it fetches from none."""
        return None

    def hub_source(self) -> dict[str, str]:
        """What the job fetches from a Hub, as recorded with the version that it leaves; empty = nothing."""
        return {}

    def connects(self) -> bool:
        """Whether a job with these parameters connects to services outside of its host."""
        return False

    def split_of(self, splits: Sequence[str]) -> str:  # noqa: ARG002 - for subclasses
        """Which of a dataset's `splits` is read, "" for all that is there. Raises ValueError that names them."""
        return ""

    def accelerators(self) -> AcceleratorChoice | None:
        """The accelerators that these parameters ask for; None = those that the job's resources name."""
        return None

    def image_sampling(self) -> ImageSampling | None:
        """What images the job makes from a prompt; None = it is no sampling of images."""
        return None

    def check_inputs(self, inputs: "Inputs") -> None:
        """Raises ValueError if these parameters and the job's inputs contradict each other."""

    def resources_check(self, resources: "Resources") -> None:
        """Raises TrainerError if these parameters and the job's resources contradict each other."""

    def shows(self) -> bool:
        """Whether a running job has something to show when asked to `sample_now`: samples, or a validation loss."""
        return False

    def changed(self, *names: str) -> str:
        """The first of these fields that is not at its default, as `name=value`; "" where all are."""
        fields = type(self).model_fields
        changed = [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]
        return f"{changed[0]}={as_typed(getattr(self, changed[0]))}" if changed else ""

    def family_problem(self, family: str) -> str:  # noqa: ARG002 - for subclasses
        """Which of these parameters a base model of that family does not support, and why; "" if none."""
        return ""

    @property
    def product_name(self) -> str:
        """Name in the catalog of the adaptor, dataset or base model that the job leaves; "" where it leaves none."""
        return ""

    @property
    def product_trigger_word(self) -> str:
        """What calls the adaptor in a prompt; "" where the parameters do not set it."""
        return ""

    @property
    def random_seed(self) -> int | None:
        """Seed of every random draw; None = the method draws nothing."""
        return None

    @property
    def max_checkpoints(self) -> int:
        """How many of the latest checkpoints stay."""
        return 1

    @property
    def secret_names(self) -> SecretNames:
        """Project secrets that the job is given."""
        return ()

    def warnings(self) -> list[str]:
        """Shown at submit: parameters that are allowed but probably not intended."""
        return []


def scales_check(field: str, scales: Sequence[float], inputs: "Inputs") -> None:
    """Raises ValueError unless `scales` is empty or has one value for each adaptor."""
    if scales and len(scales) != len(inputs.adaptors):
        raise ValueError(f"{field} has {len(scales)} values for {len(inputs.adaptors)} adaptors; give one each")


def as_typed(value: Any) -> str:
    """A value as a person writes it in JSON or YAML: true, not True."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
