import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainers.contract.params.base import Params
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.params.sample_text import SampleTextParams
from trainers.optional import libraries

UNUSED = "antigravity_of_nobody"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An installed module that nothing has imported, and the only optional one."""
    (tmp_path / f"{UNUSED}.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "OPTIONAL", (UNUSED,))
    yield UNUSED
    sys.modules.pop(UNUSED, None)


def test_a_library_that_was_not_requested_looks_uninstalled(library: str) -> None:
    libraries.libraries_hide([])
    assert importlib.util.find_spec(library) is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(library)


def test_a_requested_library_can_be_imported_also_after_it_was_hidden(library: str) -> None:
    libraries.libraries_hide([])
    libraries.libraries_hide([library])
    assert importlib.import_module(library).VALUE == 1


def test_a_library_that_is_imported_already_stays(library: str) -> None:
    module = importlib.import_module(library)
    libraries.libraries_hide([])
    assert importlib.import_module(library) is module


@pytest.mark.parametrize(
    ("config", "is_hidden"),
    [
        (None, True),
        ({"_class_name": "DDIMScheduler", "use_beta_sigmas": False}, True),
        ({"_class_name": "LMSDiscreteScheduler"}, False),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, False),
    ],
)
def test_scipy_stays_for_schedulers_that_need_it(
    config: dict[str, object] | None, is_hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "scipy", raising=False)
    (tmp_path / "scheduler").mkdir()
    if config:
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    libraries.scipy_hide_unless_used(tmp_path)
    assert ("scipy" in sys.modules) is is_hidden
    sys.modules.pop("scipy", None)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (ImageLoraParams(adaptor_name="a"), set()),
        (ImageLoraParams(adaptor_name="a", optimizer="adamw8bit"), {"bitsandbytes"}),
        (ImageLoraParams(adaptor_name="a", base_quantization="nf4", log_to_wandb=True), {"bitsandbytes", "wandb"}),
        (ImageLoraParams(adaptor_name="a", base_quantization="int8"), {"torchao"}),
        (ImageLoraParams(adaptor_name="a", attention="xformers"), {"xformers"}),
        (MaskedTextParams(adaptor_name="a", lora=True, load_in_4bit=True), {"bitsandbytes"}),
        (MaskedTextParams(adaptor_name="a", optimizer="adamw8bit"), {"bitsandbytes"}),
        (MaskedTextParams(adaptor_name="a", train_device="tpu"), {"torch_xla"}),
        (MaskedTextParams(adaptor_name="a", log_to_wandb=True), {"wandb"}),
        (SampleTextParams(prompts=["a"], load_in_4bit=True), {"bitsandbytes"}),
        (SampleTextParams(prompts=["a"]), set()),
    ],
)
def test_parameters_name_the_libraries_that_they_need(params: Params, expected: set[str]) -> None:
    assert set(params.libraries()) == expected <= set(libraries.OPTIONAL)
