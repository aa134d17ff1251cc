from pathlib import Path

import pytest
from pydantic import ValidationError

from trainers.contract.errors import ReasonCode, reason
from trainers.contract.events import (
    EVENT_BYTES,
    EVENTS,
    KINDS,
    Event,
    EventWriter,
    Failed,
    Finished,
    Payload,
    Progress,
    Sample,
    Started,
    Step,
    Warning_,
    read_events,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_are_read_back_as_they_were_written(path: Path) -> None:
    writer = EventWriter(path)
    written = [
        writer.emit(payload)
        for payload in (
            Started(total=3, details={"device": "cpu"}),
            Progress(stage="latents", done=1, total=9),
            Failed(reason=reason(ReasonCode.DISK_FULL, detail="4 bytes left")),
            Finished(outcome="stopped", step=2),
        )
    ]
    assert list(read_events(path)) == written
    assert [event.seq for event in written] == [1, 2, 3, 4]


def test_an_incomplete_last_line_is_not_read(path: Path) -> None:
    writer = EventWriter(path)
    first = writer.emit(Started(total=1))
    line = first.model_copy(update={"seq": 2}).model_dump_json()
    with path.open("a") as file:
        file.write(line[:40])
    assert list(read_events(path)) == [first]
    with path.open("a") as file:
        file.write(line[40:] + "\n")
    assert [event.seq for event in read_events(path)] == [1, 2]


def test_an_event_can_be_read_as_soon_as_it_is_emitted(path: Path) -> None:
    EventWriter(path).emit(Started(total=1))
    assert path.read_text().endswith("\n")


def test_seq_continues_after_reopening(path: Path) -> None:
    before = EventWriter(path)
    before.emit(Started(total=2))
    before.emit(Progress(stage="latents", done=1, total=2))
    before.close()
    assert EventWriter(path).emit(Finished(outcome="succeeded", step=2)).seq == 3


def test_seq_continues_after_a_crash_in_the_middle_of_a_line(path: Path) -> None:
    EventWriter(path).emit(Started(total=1))
    with path.open("a") as file:
        file.write('{"seq":2,"time":1.0,"da')
    EventWriter(path).emit(Finished(outcome="stopped", step=0))
    assert [(event.seq, event.data.kind) for event in read_events(path)] == [(1, "started"), (2, "finished")]


def test_every_kind_is_listed_once() -> None:
    kinds = {cls.model_fields["kind"].default for cls in Payload.__subclasses__()}
    assert kinds == set(KINDS)
    assert len(KINDS) == len(kinds)


@pytest.mark.parametrize(
    "line",
    [
        '{"seq":1,"time":1.0,"data":{"kind":"cheered"}}',
        '{"seq":0,"time":1.0,"data":{"kind":"started","total":1}}',
        '{"seq":1,"time":1.0,"data":{"kind":"finished","outcome":"perhaps","step":1}}',
    ],
)
def test_a_malformed_event_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        EVENTS.validate_json(line)


def test_text_of_any_language_survives(path: Path) -> None:
    payload = Progress(stage="zażółć 日本 🐕\n", done=0, total=1)
    EventWriter(path).emit(payload)
    (event,) = read_events(path)
    assert isinstance(event, Event) and event.data == payload


def step(**metrics: float) -> Step:
    return Step(
        step=1,
        total=2,
        epoch=0,
        metrics=metrics,
        per_second=1,
        unit="images",
        peak_memory_bytes=1,
        eta_seconds=float("inf"),
    )


LARGE: dict[str, Payload] = {
    "message": Warning_(message="x" * 9_000_000),
    "details": Sample(step=4, path="samples/4.png", prompt="a dog", details={"mask": "x" * 9_000_000}),
    "metrics": step(**{f"name_{number}": 0.5 for number in range(100_000)}),
    "reason": Failed(reason=reason(ReasonCode.BAD_DATASET, "row 3", "x" * 9_000_000)),
    "path": Sample(step=4, path="x" * 9_000_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_event_is_cut_when_written_and_a_warning_follows(path: Path, name: str) -> None:
    writer = EventWriter(path)
    writer.emit(LARGE[name])  # type: ignore[arg-type]  # a payload of any kind
    cut, warning = read_events(path)
    assert all(len(line) <= EVENT_BYTES for line in path.read_bytes().splitlines())
    assert isinstance(warning.data, Warning_) and "bytes" in warning.data.message
    match cut.data:
        case Sample():
            assert (cut.data.step, cut.data.path, cut.data.prompt) == (4, "samples/4.png", "a dog")
        case Step():
            assert cut.data.metrics["name_0"] == 0.5
        case Failed():
            assert cut.data.reason.message == "row 3"
        case other:
            assert isinstance(other, Warning_)


def test_unstorable_text_and_numbers_do_not_drop_an_event(path: Path) -> None:
    writer = EventWriter(path)
    writer.emit(Warning_(message="NUL \0 and half \ud800"))
    writer.emit(step(loss=0.5, grad_norm=float("nan")))
    warning, point = (event.data for event in read_events(path))
    assert warning == Warning_(message="NUL \ufffd and half \ufffd")
    assert isinstance(point, Step) and (point.metrics, point.eta_seconds) == ({"loss": 0.5}, 0.0)


def test_fields_of_a_newer_trainer_are_ignored() -> None:
    event = EVENTS.validate_json('{"seq":1,"time":1.0,"more":2,"data":{"kind":"started","total":1,"colour":"red"}}')
    assert event.data == Started(total=1)
