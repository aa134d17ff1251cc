"""Where a job runs and whom it speaks to: what every part of a method needs."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from trainers.contract.params.base import Params
from trainers.core.control import Control
from trainers.core.distributed import Processes
from trainers.core.tracking import Reporter
from trainers.core.workspace import Workspace

AnyParams = TypeVar("AnyParams", bound=Params)


@dataclass(frozen=True)
class Site(Generic[AnyParams]):
    work: Workspace
    params: AnyParams
    processes: Processes
    control: Control
    reporter: Reporter
