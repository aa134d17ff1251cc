"""JobSpec: everything a trainer needs to know, as canonical JSON. Standard library and pydantic only."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trainers.contract.params import params_class
from trainers.contract.params.base import Params

MAX_INT = 2**31 - 1
MAX_BIGINT = 2**63 - 1
"""Largest integers that a column of either size holds, in every database."""
MAX_FILE_BYTES = 5 * 2**40
"""No S3 server takes a larger file; the sum of a list of files fits a column too."""
FORMER_DATASET_KINDS = {"pictures": "images", "rows": "text"}
"""Current kind by the name in specs of older jobs, which must keep their digest."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)


class InputRef(Contract):
    """One immutable input: a folder of files under a storage prefix."""

    name: str
    """For people: name@version."""
    key: str
    """Storage prefix that the files lie under."""
    sha256: Sha256
    """Digest of the folder: SHA-256 of its canonical file list (see `folder_digest`)."""
    details: dict[str, Any] = {}
    """What the method may need of the record: an adaptor's trigger word, a model's family."""


class Inputs(Contract):
    """Each at its path below in/: dataset, datasets/<index>, class_dataset, model, adaptor/<index>, checkpoint."""

    dataset: InputRef | None = None
    further_datasets: tuple[InputRef, ...] = ()
    """Read after the dataset, in this order."""
    class_dataset: InputRef | None = None
    """Images of the class, for prior preservation."""
    model: InputRef | None = None
    adaptors: tuple[InputRef, ...] = ()
    checkpoint: InputRef | None = None

    def places(self) -> dict[str, InputRef]:
        """By the folder below in/."""
        named: dict[str, InputRef | None] = {"dataset": self.dataset, "model": self.model}
        named |= {f"datasets/{index}": dataset for index, dataset in enumerate(self.further_datasets)}
        named["class_dataset"] = self.class_dataset
        named |= {f"adaptor/{index}": adaptor for index, adaptor in enumerate(self.adaptors)}
        named["checkpoint"] = self.checkpoint
        return {place: ref for place, ref in named.items() if ref is not None}


class Resources(Contract):
    accelerators: int | tuple[int, ...] = 0
    """How many, or exactly which by index; 0 = the CPU."""
    strategy: Literal["single", "ddp"] = "single"
    """single = one process; ddp = one process per accelerator, gradients averaged."""
    processes: int | None = Field(None, ge=1, le=64)
    """Processes of ddp on the CPU; with accelerators it is their number."""

    @field_validator("accelerators")
    @classmethod
    def _sensible(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(value, int) and not 0 <= value <= 64:
            raise ValueError(f"accelerators must be 0..64 or a list of indices, got {value}")
        if isinstance(value, tuple) and (len(set(value)) != len(value) or not 0 < len(value) <= 64):
            raise ValueError(f"accelerators must be 1..64 distinct indices, got {list(value)}")
        if isinstance(value, tuple) and not 0 <= min(value) <= max(value) <= 1000:
            raise ValueError(f"accelerators must be indices in 0..1000, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        count = self.num_accelerators
        if self.strategy == "single" and (count > 1 or (self.processes or 1) > 1):
            raise ValueError(
                f"strategy='single' runs one process, got accelerators={self.accelerators} processes={self.processes}; "
                "choose strategy='ddp'"
            )
        if count and self.processes and self.processes != count:
            raise ValueError(f"processes={self.processes} must be the number of accelerators ({count}); leave it empty")
        return self

    @property
    def num_accelerators(self) -> int:
        return self.accelerators if isinstance(self.accelerators, int) else len(self.accelerators)

    @property
    def num_processes(self) -> int:
        return self.processes or max(1, self.num_accelerators)


class JobSpec(Contract):
    name: str = Field(min_length=1, max_length=200)
    method: str
    params: SerializeAsAny[Params]
    inputs: Inputs = Inputs()
    resources: Resources = Resources()

    @field_validator("params", mode="before")
    @classmethod
    def _params_of_method(cls, value: Any, info: ValidationInfo) -> Params:
        if "method" not in info.data:
            raise ValueError("params cannot be read without a valid method")
        method_params = params_class(info.data["method"])
        return value if isinstance(value, method_params) else method_params.model_validate(value)

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        return params_class(value).method

    @model_validator(mode="after")
    def _inputs_of_method(self) -> Self:
        needs, allows = self.params.requires, (*self.params.requires, *self.params.accepts, "checkpoint")
        for role in Inputs.model_fields:
            is_present = bool(getattr(self.inputs, role))
            if role in needs and not is_present:
                raise ValueError(f"method {self.method} needs inputs.{role}")
            if is_present and role not in allows:
                raise ValueError(f"method {self.method} has no use for inputs.{role}; leave it out")
        self._kinds_check()
        self._splits_check()
        self._family_check()
        self._adaptors_check()
        self.params.check_inputs(self.inputs)
        return self

    def _adaptors_check(self) -> None:
        most, adaptors, model = self.params.max_adaptors, self.inputs.adaptors, self.inputs.model
        if most and len(adaptors) > most:
            raise ValueError(f"method {self.method} takes {most} adaptor, got {len(adaptors)}; merge joins several")
        for adaptor in adaptors:
            trained_on = adaptor.details.get("base_sha256")
            if model and trained_on and trained_on != model.sha256:
                named = adaptor.details.get("base_name") or f"another one ({trained_on[:12]})"
                raise ValueError(
                    f"the base model is {model.name}, but the adaptor {adaptor.name} was trained on {named}; "
                    "choose that base model, or import the adaptor's file for this one"
                )

    def _kinds_check(self) -> None:
        expected = self.params.dataset_kind
        for dataset in (self.inputs.dataset, *self.inputs.further_datasets, self.inputs.class_dataset):
            if expected and dataset and (kind := dataset.details.get("kind")):
                kind = FORMER_DATASET_KINDS.get(kind, kind)
                if kind != expected:
                    message = f"needs a dataset of {expected}, but {dataset.name} holds {kind}"
                    raise ValueError(f"method {self.method} {message}")

    def _splits_check(self) -> None:
        """If the check at upload found splits, the parameters must name one of them."""
        for dataset in (self.inputs.dataset, *self.inputs.further_datasets):
            if dataset and "splits" in dataset.details:
                try:
                    self.params.split_of(dataset.details["splits"])
                except ValueError as error:
                    raise ValueError(f"{dataset.name}: {error}") from None

    def _family_check(self) -> None:
        model, families = self.inputs.model, self.params.model_families
        family = model.details.get("family") if model else None
        if model and family and families and family not in families:
            message = (
                f"takes base models of the families {', '.join(families)}, but {model.name} is of the family {family}"
            )
            raise ValueError(f"method {self.method} {message}")
        if family and (problem := self.params.family_problem(family)):
            raise ValueError(problem)

    def digest(self, *, exclude_unset: bool = False) -> str:
        """SHA-256 of the canonical JSON without the checkpoint, since a resumed attempt runs the same spec.

        exclude_unset: of the fields that the spec's JSON lists, without defaults. Specs of queued jobs list every field
        of the release that queued them; so a release with further parameters computes the same digest.
        """
        fresh = self.model_copy(update={"inputs": self.inputs.model_copy(update={"checkpoint": None})})
        content = fresh.model_dump(mode="json", exclude_unset=exclude_unset)
        return hashlib.sha256(canonical_json(content)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The bytes of a value for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def folder_digest(files: list[dict[str, Any]]) -> str:
    """Digest of a folder from its files' `path`, `size` and `sha256`; order and other keys do not matter."""
    rows = sorted(
        ({"path": f["path"], "size": f["size"], "sha256": f["sha256"]} for f in files), key=lambda r: r["path"]
    )
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def spec_load(path: Path) -> JobSpec:
    return JobSpec.model_validate_json(path.read_bytes())
