"""Every method by name. To add one: its class here, one line."""

from trainers.params.base import Params
from trainers.params.evaluate_text import EvaluateTextParams
from trainers.params.extract_adaptor import ExtractAdaptorParams
from trainers.params.fetch import FetchDatasetParams, FetchModelParams
from trainers.params.image_lora import ImageLoraParams
from trainers.params.import_adaptor import ImportAdaptorParams
from trainers.params.import_model import ImportModelParams
from trainers.params.inspect_dataset import InspectDatasetParams
from trainers.params.masked_text import MaskedTextParams
from trainers.params.merge import MergeParams
from trainers.params.sample_image import SampleImageParams
from trainers.params.sample_text import SampleTextParams

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
