"""Hides optional libraries from the process of a job that did not ask for them.

transformers, diffusers, peft, accelerate and tensorboard import many libraries wherever they are installed, for
features that no job here uses. Such an import costs seconds, prints warnings into the job's log (bitsandbytes without
kernels for the machine) and fails where the library does not fit torch.
"""

import sys
from collections.abc import Collection

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
