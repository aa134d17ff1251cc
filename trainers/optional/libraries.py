"""Optional libraries: hidden from a job that does not use them, loaded for one whose parameters ask for them.

transformers, diffusers, peft, accelerate and tensorboard import many libraries wherever they are installed, for
features that no job here uses. Such an import costs seconds, prints warnings into the job's log (bitsandbytes without
kernels for the machine) and fails where the library does not fit torch.
"""

import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from formats.models.configs import json_file_read
from trainers.contract.errors import ReasonCode, TrainerError

OPTIONAL = (
    "aim",
    "apex",
    "aqlm",
    "auto_gptq",
    "awq",
    "bitsandbytes",
    "boto3",
    "botocore",
    "clearml",
    "codecarbon",
    "comet_ml",
    "deepspeed",
    "dvclive",
    "eetq",
    "flash_attn",
    "flash_attn_interface",
    "flax",
    "gptqmodel",
    "hqq",
    "intel_extension_for_pytorch",
    "jax",
    "kernels",
    "librosa",
    "mlflow",
    "modelopt",
    "neptune",
    "nncf",
    "onnxruntime",
    "optimum",
    "pandas",
    "ray",
    "sageattention",
    "sklearn",
    "swanlab",
    "tensorflow",
    "torch_xla",
    "torchao",
    "torchaudio",
    "torchvision",
    "trackio",
    "transformer_engine",
    "wandb",
    "xformers",
)
"""Top-level modules that those libraries import or probe for; none is a dependency of a training job."""


def libraries_hide(requested: Collection[str]) -> None:
    """Makes every module of OPTIONAL but `requested` look uninstalled to this process: to `import` and `find_spec`.

    A module that is already imported stays. Call it before transformers, diffusers or peft are imported: they keep
    what they saw first.
    """
    for name in OPTIONAL:
        if name not in requested:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's own mark for "not to be imported"
        elif sys.modules.get(name, sys) is None:
            del sys.modules[name]


def scipy_hide_unless_used(model: Path) -> None:
    """Hides scipy from a job that never chooses a sampler itself, unless the scheduler of the base in `model` needs it.

    transformers imports scipy for the losses of object detection, diffusers for samplers.
    """
    try:
        config = json_file_read(model / "scheduler" / "scheduler_config.json", "scheduler_config.json")
    except (OSError, ValueError):
        config = {}  # a base without a scheduler; what is wrong with one is reported when the base is loaded
    if config.get("_class_name") != "LMSDiscreteScheduler" and not config.get("use_beta_sigmas"):
        sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]  # as above


def optional_module(path: str, extra: str) -> ModuleType:
    """The module at `path`: a library, or our adapter of one. TrainerError MISSING_LIBRARY names the extra."""
    try:
        return importlib.import_module(path)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] == "trainers":
            raise  # our own mistake
        raise TrainerError(
            ReasonCode.MISSING_LIBRARY,
            f"{error.name} is not installed on this worker; install anneal[{extra}] there",
        ) from error
