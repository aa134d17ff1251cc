"""Rows of text: what is left out, what is refused, and that the reason names the line."""

import hashlib
import json
from io import BytesIO
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from api.catalog.checking.dataset import check
from api.catalog.checking.report import Refused, plain
from api.catalog.checking.work import decoded_limit
from tests.api.actors import png
from tests.api.catalog.checking.conftest import WorkOf


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


GOOD = [{"question": f"{n}?", "answer": str(n)} for n in range(10)]
BAD = [
    ({"question": "x"}, "'answer' is missing"),
    ({"question": "x", "answer": None}, "'answer' is missing"),
    ({"question": 1, "answer": "x"}, "expected text under 'question', got number 1"),
    ({"question": "", "answer": "  "}, "every text is empty"),
    ([1, 2], "expected an object, got list"),
    (None, "expected an object, got nothing"),
    (b'{"question": "x", "answer": NaN}', "NaN is not JSON"),
    (b'{"question": "x", "answer": 1e999}', "finite"),
    (b"{broken", "not JSON"),
    (b'{"question": "x", "answer": ' + b"[" * 40 + b"]" * 40 + b"}", "at most 32 levels"),
    (b"[" * 100_000, "at most 32 levels"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_faulty_line_is_left_out_with_a_notice(work_of: WorkOf, row: Any, message: str) -> None:
    work = work_of({"a.jsonl": lines(*GOOD, row, b"", *GOOD), "b.jsonl": lines(*GOOD)})
    details = check(work)
    assert (details["kind"], details["num_rows"], details["num_skipped"]) == ("text", 30, 1)
    (notice,) = work.notices.listed
    assert (notice["file"], notice["line"]) == ("a.jsonl", 11)
    assert message in notice["message"]
    assert [file["path"] for file in work.files] == ["a.jsonl", "b.jsonl"]
    assert work.open("a.jsonl").read_bytes() == lines(*GOOD, *GOOD)
    assert work.open("b.jsonl").read_bytes() == lines(*GOOD)


def test_what_is_good_stays_as_it_was_sent(work_of: WorkOf) -> None:
    work = work_of({"a.jsonl": lines(*GOOD)[:-1]})
    details = check(work)
    assert (details["num_rows"], work.replaced, work.notices.count) == (10, None, 0)
    kinds = [(column["name"], column["kind"]) for column in details["columns"]]
    assert kinds == [("question", "text"), ("answer", "text")]


def test_a_column_may_be_empty_or_rare(work_of: WorkOf) -> None:
    rows: list[Any] = [{"instruction": f"{n}", "input": "", "output": "x"} for n in range(9)]
    details = check(work_of({"a.jsonl": lines(*rows, {**rows[0], "note": "rare"})}))
    assert (details["num_rows"], details["num_skipped"]) == (10, 0)


CHATS = [
    ([("user", "a"), ("assistant", "b")], None),
    ([("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")], None),
    ([("user", "a"), ("user", "b")], "turn 2: expected assistant, got user"),
    ([("assistant", "a")], "turn 1: expected user, got assistant"),
    ([("user", "a"), ("system", "b")], "turn 2: expected assistant, got system"),
    ([("robot", "a")], "'robot'"),
    ([("user", "")], "turn 1: expected text"),
    ([], "the chat is empty"),
]


@pytest.mark.parametrize(("turns", "message"), CHATS)
@pytest.mark.parametrize("names", [("role", "content"), ("from", "value")])
def test_roles_of_chats_are_checked(work_of: WorkOf, turns: Any, message: str | None, names: tuple[str, str]) -> None:
    def chat(turns: Any) -> dict[str, Any]:
        return {"messages": [dict(zip(names, turn, strict=True)) for turn in turns]}

    work = work_of({"a.jsonl": lines(chat(CHATS[0][0]), chat(turns))})
    details = check(work)
    assert (details["chat"], details["num_skipped"]) == (True, 1 if message else 0)
    assert (message or "") in json.dumps(work.notices.listed)


REFUSED = [
    ("a.jsonl", lines(*GOOD).decode().encode("utf-16"), "a.jsonl is UTF-16; expected UTF-8"),
    ("a.jsonl", lines({"text": "x"}) + b'{"text": "caf\xe9"}\n', "byte 27 is 0xe9"),
    ("a.jsonl", json.dumps(GOOD, indent=1).encode(), "this is a JSON array; expected one object per line"),
    ("a.jsonl", json.dumps(GOOD).encode(), "this is a JSON array; expected one object per line"),
    ("a.jsonl", b"[1]\nnull\n", "a.jsonl line 1: expected an object"),
    ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
    ("a.json", b"[" * 100_000, "at most 32 levels"),
    ("a.json", b'{"a": 1}', "expected an array of objects, got dict"),
    ("a.json", json.dumps([*GOOD, 5]).encode(), "a.json row 11: expected an object"),
    ("a.csv", b"q,a\n1,2\n3\n4,5,6\n", "a.csv line 3: expected 2 cells, got 1"),
    ("a.csv", b"q,q\n1,2\n", "a different name for each column"),
    ("a.csv", b'q,a\n"1,2\n', "a.csv line"),
    ("a.csv", b"q,a\n\xff,2\n", "byte 4 is 0xff"),
    ("a.parquet", b"PAR1 no", "a.parquet cannot be read as Parquet"),
]


@pytest.mark.parametrize(("path", "data", "message"), REFUSED)
def test_what_cannot_be_mended_is_refused_and_named(work_of: WorkOf, path: str, data: bytes, message: str) -> None:
    with pytest.raises(Refused) as caught:
        check(work_of({path: data}))
    assert message in json.dumps(caught.value.body(), ensure_ascii=False)


def test_other_kinds_of_files_are_read_alike(work_of: WorkOf) -> None:
    table = pyarrow.Table.from_pylist(GOOD)
    buffer = BytesIO()
    parquet.write_table(table, buffer)
    cells = 'question,answer\n"a, ""b""\nc",=SUM(1)\n'.encode("utf-8-sig")
    work = work_of({"a.json": json.dumps(GOOD).encode(), "b.csv": cells, "c.parquet": buffer.getvalue()})
    assert check(work)["num_rows"] == 21
    shown = json.loads((work.preview.folder / "items-00000.json").read_text())
    assert shown[10]["row"] == {"question": 'a, "b"\nc', "answer": "=SUM(1)"}


def test_a_long_row_is_accepted_in_linear_time(work_of: WorkOf) -> None:
    work = work_of({"a.jsonl": lines({"text": "word " * 200_000})})
    assert check(work)["num_rows"] == 1
    assert "1000000 characters" in work.notices.listed[0]["message"]


def test_what_no_database_can_hold_is_refused_and_its_refusal_can_be_stored(work_of: WorkOf) -> None:
    work = work_of({"a.jsonl": b'{"text": "\\u0000 \\ud800 fine", "a\\u0000\\udfff": "x"}\n'})
    with pytest.raises(Refused, match=r"a\.jsonl line 1") as refusal:
        check(work)
    assert b"\0" not in json.dumps(plain(refusal.value.body()), ensure_ascii=False).encode()


def test_files_without_rows_are_named(work_of: WorkOf) -> None:
    work = work_of({"a.jsonl": lines(*GOOD), "README.md": b"read me"})
    check(work)
    assert [(notice["file"], notice["code"]) for notice in work.notices.listed] == [("README.md", "not_used")]


def parquet_of(table: pyarrow.Table) -> bytes:
    buffer = BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def repeated(text: str, count: int) -> pyarrow.DictionaryArray:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), pyarrow.array([text]))


def test_a_parquet_dictionary_bomb_is_refused_after_a_bounded_number_of_bytes(work_of: WorkOf) -> None:
    bomb = parquet_of(pyarrow.table({"text": repeated("x" * (1 << 20), 200_000)}))
    assert len(bomb) < 2000
    with pytest.raises(Refused, match=r"a\.parquet: expected at most 268435456 bytes once decoded") as refusal:
        check(work_of({"a.parquet": bomb}))
    assert refusal.value.body()["code"] == "check_limit"


def test_the_parquet_files_of_an_upload_are_bounded_together(work_of: WorkOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them stays below the bound of one file."""
    monkeypatch.setattr("api.catalog.checking.work.MIN_DECODED_BYTES", 1 << 20)
    monkeypatch.setattr("api.catalog.checking.work.MAX_RATIO", 100)
    small = parquet_of(pyarrow.table({"text": ["x" * 1000] * 600}))
    work = work_of({f"{number}.parquet": small for number in range(9)})
    with pytest.raises(Refused, match=r"the upload: .* bytes once decoded.* Parquet files up to \d\.p") as refusal:
        check(work)
    assert refusal.value.body()["code"] == "check_limit"


def test_rows_of_nulls_count_too(work_of: WorkOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.catalog.checking.work.MIN_DECODED_BYTES", 1 << 20)
    nulls = parquet_of(pyarrow.table({"text": pyarrow.nulls(1_000_000, pyarrow.string())}))
    with pytest.raises(Refused, match="once decoded"):
        check(work_of({"a.parquet": nulls}))


def test_a_system_prompt_repeated_in_each_row_is_accepted(work_of: WorkOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.catalog.checking.work.MIN_DECODED_BYTES", 1 << 20)  # the ratio alone decides
    count = 2000
    answers = [hashlib.sha512(str(n).encode()).hexdigest() for n in range(count)]
    table = pyarrow.table({"system": repeated("Be kind. " * 1000, count), "text": answers})
    assert check(work_of({"a.parquet": parquet_of(table)}))["num_rows"] == count


@pytest.mark.parametrize(
    ("size", "limit"),
    [(936, 256 << 20), (10 << 20, 5000 << 20), (1 << 30, 64 << 30), (100 << 30, 400 << 30)],
)
def test_what_a_parquet_may_decode_to(size: int, limit: int) -> None:
    assert decoded_limit(size) == limit


def test_parquet_with_images_becomes_images(work_of: WorkOf) -> None:
    rows = [{"image": {"bytes": png(seed=n), "path": "../../evil.png"}, "text": f"image {n}"} for n in range(3)]
    buffer = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    work = work_of({"a.parquet": buffer.getvalue()})
    details = check(work)
    assert (details["kind"], details["num_images"], details["num_captions"]) == ("images", 3, 3)
    assert work.paths == ["000000.png", "000001.png", "000002.png", "metadata.jsonl"]


def test_parquet_with_masks_and_several_captions_keeps_them(work_of: WorkOf) -> None:
    image = {"bytes": png(8, 8), "path": "x.png"}
    row = {"image": image, "mask": image, "caption": "a cat", "long caption": "a cat on a mat", "file_name": "../x"}
    buffer = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "mask": None}]), buffer)
    work = work_of({"data.parquet": buffer.getvalue()})
    details = check(work)
    assert [details[name] for name in ("kind", "num_images", "num_captions")] == ["images", 3, 2]
    rows = [json.loads(line) for line in (work.folder / "metadata.jsonl").read_text().splitlines()]
    texts = {"text": "a cat", "caption": "a cat", "long caption": "a cat on a mat"}
    assert rows[0] == {**texts, "file_name": "000000.png", "mask": "mask/000000.png"}
    assert rows[1] == {**texts, "file_name": "000001.png"}
    assert not [notice for notice in work.notices.listed if "no_row" in notice["code"]]


def test_paragraphs_of_plain_text_are_rows(work_of: WorkOf) -> None:
    work = work_of({"a.txt": b"\n\nOne day\nin May.\n \n\nThen", "b.txt": b"Last.\n"})
    details = check(work)
    assert (details["kind"], details["num_rows"], details["columns"][0]["name"]) == ("text", 3, "text")
    shown = json.loads((work.target / "preview/items-00000.json").read_text())
    assert [(item["line"], item["row"]["text"]) for item in shown] == [
        (3, "One day\nin May."),
        (7, "Then"),
        (1, "Last."),
    ]


def test_plain_text_beside_rows_is_not_used(work_of: WorkOf) -> None:
    work = work_of({"rows.jsonl": b'{"text": "a"}', "LICENSE.txt": b"Free."})
    assert check(work)["num_rows"] == 1
    assert [notice["file"] for notice in work.notices.listed] == ["LICENSE.txt"]
