"""Where a job runs and whom it speaks to: what every part of a method needs."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from trainers.control import Control
from trainers.distributed import Processes
from trainers.params.base import Params
from trainers.tracking import Reporter
from trainers.workspace import Workspace

AnyParams = TypeVar("AnyParams", bound=Params)


@dataclass(frozen=True)
class Site(Generic[AnyParams]):
    work: Workspace
    params: AnyParams
    processes: Processes
    control: Control
    reporter: Reporter
