"""What a prepared process does ahead of the jobs that are forked from it: all that a job does whatever its inputs are.

That is imports above all, and what pydantic and transformers build when they are first used. Optional libraries are
hidden first, as in a job that asks for none: a job that asks for one is never forked from here.
"""

import tempfile
from importlib import import_module

import numpy
import torch

from trainers.contract.params import METHODS
from trainers.optional.libraries import libraries_hide

libraries_hide(())
for _params in METHODS.values():
    _params.model_rebuild()
    import_module(_params.entry.partition(":")[0])
for _name in ("trainers.job", "trainers.serve"):
    import_module(_name)
_families = import_module("trainers.image.models.families")
for _name in _families.MODULES:
    _families.image_family(_name)
import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("")  # compiles 900 patterns


def after_fork() -> None:
    """Called in a forked trainer, for what a new process draws or looks up; Python's `random` seeds itself."""
    numpy.random.seed()
    torch.default_generator.seed()
    tempfile.tempdir = None
