"""Every method by name. To add one: its class here, one line."""

from trainers.contract.params.base import Params
from trainers.contract.params.evaluate_text import EvaluateTextParams
from trainers.contract.params.extract_adaptor import ExtractAdaptorParams
from trainers.contract.params.fetch import FetchDatasetParams, FetchModelParams
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.import_adaptor import ImportAdaptorParams
from trainers.contract.params.import_model import ImportModelParams
from trainers.contract.params.inspect_dataset import InspectDatasetParams
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.params.merge import MergeParams
from trainers.contract.params.sample_image import SampleImageParams
from trainers.contract.params.sample_text import SampleTextParams

METHODS: dict[str, type[Params]] = {
    params.method: params
    for params in (
        ImageLoraParams,
        MaskedTextParams,
        SampleImageParams,
        SampleTextParams,
        EvaluateTextParams,
        ExtractAdaptorParams,
        ImportAdaptorParams,
        ImportModelParams,
        MergeParams,
        FetchModelParams,
        FetchDatasetParams,
        InspectDatasetParams,
    )
}


def params_class(method: str) -> type[Params]:
    """The parameter class of `method`. Raises ValueError that lists the known methods."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known methods: {', '.join(sorted(METHODS))}")
    return METHODS[method]
