"""Every method by name. To add one: its class in a file of its own, one line here."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from trainers.contract.params.base import Params


class Methods(Mapping[str, type[Params]]):
    """Parameter classes by method. A class is imported when it is looked up, so that a trainer imports only its own."""

    def __init__(self, classes: dict[str, str]) -> None:
        """classes: `module:class` below this package, by method."""
        self._classes = classes

    def __getitem__(self, method: str) -> type[Params]:
        module, _, name = self._classes[method].partition(":")
        params: type[Params] = getattr(import_module(f"{__name__}.{module}"), name)
        return params

    def __contains__(self, method: object) -> bool:
        return method in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


METHODS = Methods(
    {
        "image_lora": "image_lora:ImageLoraParams",
        "masked_text": "masked_text:MaskedTextParams",
        "pretrain_text": "pretrain_text:PretrainTextParams",
        "sample_image": "sample_image:SampleImageParams",
        "sample_text": "sample_text:SampleTextParams",
        "evaluate_text": "sample_text:EvaluateTextParams",
        "extract_adaptor": "adaptors:ExtractAdaptorParams",
        "import_adaptor": "adaptors:ImportAdaptorParams",
        "import_model": "fetch:ImportModelParams",
        "merge": "adaptors:MergeParams",
        "fetch_model": "fetch:FetchModelParams",
        "fetch_dataset": "fetch:FetchDatasetParams",
        "inspect_dataset": "inspect_dataset:InspectDatasetParams",
    }
)


def params_class(method: str) -> type[Params]:
    """The parameter class of `method`. Raises ValueError that lists the known methods."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known methods: {', '.join(sorted(METHODS))}")
    return METHODS[method]
