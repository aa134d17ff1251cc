"""A builder for each kind of tiny base model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.tiny_flux import build_tiny_flux
from tests.tiny_sd import build_tiny_sd
from tests.tiny_sd2 import build_tiny_sd2
from tests.tiny_sd3 import build_tiny_sd3
from tests.tiny_sdxl import build_tiny_sdxl

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd1": build_tiny_sd,
    "sd2": build_tiny_sd2,
    "sdxl": build_tiny_sdxl,
    "sd3": build_tiny_sd3,
    "sd3_without_t5": partial(build_tiny_sd3, has_t5=False),
    "sd35": partial(build_tiny_sd3, version="3.5"),
    "flux": build_tiny_flux,
    "flux_schnell": partial(build_tiny_flux, schnell=True),
}
