"""What a prepared process imports ahead of the jobs that are forked from it: all that any method imports.

Optional libraries are hidden first, as in a job that asks for none: a job that asks for one is never forked from here.
"""

import tempfile
from importlib import import_module

import numpy
import torch

from trainers.contract.params import METHODS
from trainers.optional.libraries import libraries_hide

libraries_hide(())
for _params in METHODS.values():
    import_module(_params.entry.partition(":")[0])


def after_fork() -> None:
    """Called in a forked trainer, for what a new process draws or looks up; Python's `random` seeds itself."""
    numpy.random.seed()
    torch.default_generator.seed()
    tempfile.tempdir = None
