"""The check at upload takes the schedulers that trainers take."""

from api.catalog.checking.pipelines import FLOW_SCHEDULERS, SCHEDULERS
from trainers.models import schedulers


def test_the_check_at_upload_knows_the_same_schedulers() -> None:
    assert sorted((*SCHEDULERS, *FLOW_SCHEDULERS)) == sorted(schedulers.SCHEDULERS)
    assert (schedulers.FLOW,) == FLOW_SCHEDULERS
