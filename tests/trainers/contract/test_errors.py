import pytest

from trainers.contract.errors import MEANINGS, Reason, ReasonCode, TrainerError, reason


def test_every_reason_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ReasonCode)


@pytest.mark.parametrize("code", ReasonCode)
def test_a_meaning_is_a_sentence_and_a_hint(code: ReasonCode) -> None:
    meaning = MEANINGS[code]
    for text in (meaning.sentence, meaning.hint):
        assert text[0].isupper() and text.endswith(".") and " " in text


def test_an_empty_message_is_replaced_by_the_sentence_of_the_code() -> None:
    assert reason(ReasonCode.DISK_FULL).message == "The worker's disk is full."
    assert reason(ReasonCode.DISK_FULL, "3 MB are left").message == "3 MB are left"


def test_a_trainer_error_carries_its_reason() -> None:
    error = TrainerError(ReasonCode.BAD_DATASET, "row 3 has no caption", detail="expected text")
    assert str(error) == "row 3 has no caption"
    assert error.reason == reason(ReasonCode.BAD_DATASET, "row 3 has no caption", "expected text")


def test_a_reason_survives_json_and_ignores_unknown_keys() -> None:
    reported = reason(ReasonCode.WORKER_LOST, detail="last seen 12:00")
    assert Reason.model_validate_json(reported.model_dump_json()) == reported
    assert Reason.model_validate({**reported.model_dump(), "of_a_newer_release": 1}) == reported
