"""The log spool: masked on whole lines, whatever the pieces are that the trainer writes."""

import os
import threading
from pathlib import Path

from tests.patience import PATIENCE_SECONDS
from worker.attempt.output import LINE_LIMIT, TAIL_BYTES, LogSpool, Masker

TOKEN = "ana_" + "abcdefghij" * 3


def spool_of(tmp_path: Path, *pieces: bytes, limit_bytes: int = 1 << 30) -> LogSpool:
    spool = LogSpool(tmp_path / "log", Masker(["known-password"]), limit_bytes)
    read_end, write_end = os.pipe()
    reader = threading.Thread(target=spool.read_all, args=(read_end,))
    reader.start()
    for piece in pieces:
        os.write(write_end, piece)
    os.close(write_end)
    reader.join(PATIENCE_SECONDS)
    return spool


def test_a_token_written_in_two_pieces_is_masked(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, b"x " + TOKEN[:9].encode(), TOKEN[9:].encode() + b" y\n")
    assert spool.tail() == "x [masked] y\n"


def test_known_values_and_the_last_line_without_end_are_masked(tmp_path: Path) -> None:
    assert spool_of(tmp_path, b"proxy known-password").tail() == "proxy [masked]"


def test_carriage_returns_end_lines_so_that_progress_bars_flow(tmp_path: Path) -> None:
    assert spool_of(tmp_path, b"1%\r2%\r", b"done\n").tail() == "1%\r2%\rdone\n"


def test_a_very_long_line_is_cut_at_a_blank(tmp_path: Path) -> None:
    line = b"w" * (LINE_LIMIT - 10) + b" " + TOKEN.encode()
    spool = spool_of(tmp_path, line[:LINE_LIMIT], line[LINE_LIMIT:] + b" end\n")
    assert spool.tail(20).endswith("[masked] end\n") and TOKEN.encode() not in spool.read(0, 10**6)


def test_offsets_count_masked_bytes(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, f"{TOKEN}\n".encode())
    assert spool.size() == len("[masked]\n") and spool.read(1, 3) == b"mas"


def test_every_shape_of_token_is_masked() -> None:
    masker = Masker([])
    for secret in ("ant_" + "a" * 20, "anw_" + "B" * 32, "hf_" + "x" * 34, "0123456789abcdef0123456789abcdef01234567"):
        assert masker.line(f"a {secret} b".encode()) == b"a [masked] b"


def test_ordinary_words_and_digests_of_files_stay() -> None:
    line = b"planet hf_hub ant_colony " + b"a" * 64
    assert Masker(["short"]).line(line) == line


def test_a_revision_in_an_event_is_no_key() -> None:
    line = b'{"revision": "0123456789abcdef0123456789abcdef01234567", "token": "hf_abcdefghijklmnopqrst"}'
    assert Masker([]).event(line) == b'{"revision": "0123456789abcdef0123456789abcdef01234567", "token": "[masked]"}'


def test_a_full_disk_loses_lines_but_never_blocks_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    spool_of(tmp_path, *[b"x" * 60_000 + b"\n"] * 4)  # more than a pipe holds: the reader must go on


def test_a_log_over_its_limit_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    lines = [b"line %06d\n" % number for number in range(200_000)]
    spool = spool_of(
        tmp_path, *(b"".join(lines[i : i + 1000]) for i in range(0, len(lines), 1000)), limit_bytes=100_000
    )
    content = (tmp_path / "log").read_bytes()
    assert len(content) < 100_000 + TAIL_BYTES + 200
    head, end = content.split(b"[anneal] the log is over 100000 bytes: only its end follows\n")
    assert head.startswith(b"line 000000\n") and head.endswith(b"line 008332\n\n")
    left_out, _, end = end.partition(b" bytes of the log were left out here\n")
    assert end.endswith(b"line 199999\n") and len(end) == TAIL_BYTES
    assert int(left_out.split()[-1]) == len(b"".join(lines)) - len(head) + 1 - TAIL_BYTES
    assert spool.tail(12) == "line 199999\n"


def test_a_log_just_over_its_limit_loses_nothing(tmp_path: Path) -> None:
    spool_of(tmp_path, b"a\n" * 60, limit_bytes=100)
    assert (tmp_path / "log").read_bytes().count(b"a\n") == 60
