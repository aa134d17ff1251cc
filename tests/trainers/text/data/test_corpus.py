"""The stream of packed sequences: every token once an epoch, and exact from any position."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainers.contract.errors import TrainerError
from trainers.text.data.corpus import Corpus, Position, step_length

EOS = 0


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """A text is numbers: each is its own token."""
    return [[int(word) for word in text.split()] for text in texts]


def documents(first: int, count: int) -> list[str]:
    """Documents of 1 to 5 tokens; no token stands twice in the corpus."""
    return [" ".join(str(1000 * (first + n) + i + 1) for i in range(1 + n % 5)) for n in range(count)]


def write(path: Path, texts: Sequence[str]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": list(texts)}), path)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Three files of 23, 10 and 7 documents, of which the first 4 are held out."""
    files = [
        write(tmp_path / "a.jsonl", documents(0, 23)),
        write(tmp_path / "b.parquet", documents(100, 10)),
        write(tmp_path / "c.jsonl", documents(200, 7)),
    ]
    return Corpus(files, "text", tokenize, eos_id=EOS, seed=7, window=6, held_out=4)


def all_tokens() -> Counter[int]:
    """Of one epoch, without the end tokens."""
    texts = [*documents(0, 23)[4:], *documents(100, 10), *documents(200, 7)]
    return Counter(token for ids in tokenize(texts) for token in ids)


def read(corpus: Corpus, start: Position, length: int, count: int) -> list[tuple[list[int], Position]]:
    sequences = islice(corpus.sequences(start, repeat(length)), count)
    return [(sequence.ids_L.tolist(), position) for sequence, position in sequences]


def test_an_epoch_holds_every_token_once(corpus: Corpus) -> None:
    expected = all_tokens()
    num_documents = 19 + 10 + 7
    tokens = [token for ids, _ in read(corpus, Position(), 1, expected.total() + num_documents) for token in ids]
    assert Counter(token for token in tokens if token != EOS) == expected
    assert tokens.count(EOS) == num_documents
    ((_, position),) = read(corpus, Position(), len(tokens), 1)
    assert position.epoch == 1 or (position.file, position.token) == (2, 0), (
        "the next token is the second epoch's first"
    )


def test_epochs_have_other_orders_and_so_have_seeds(corpus: Corpus) -> None:
    size = all_tokens().total() + 36
    (first, _), (second, _) = read(corpus, Position(), size, 2)
    assert sorted(first) == sorted(second) and first != second
    other = Corpus(corpus.files, "text", tokenize, eos_id=EOS, seed=8, window=6, held_out=4)
    assert read(other, Position(), size, 1)[0][0] != first
    assert read(corpus, Position(), size, 1)[0][0] == first


@pytest.mark.parametrize("length", [1, 7, 50])
def test_any_position_takes_the_stream_up_exactly(corpus: Corpus, length: int) -> None:
    """Over the ends of documents, windows, files and the epoch."""
    complete = read(corpus, Position(), length, 300 // length)
    for count, (_, position) in enumerate(complete, start=1):
        rest = complete[count : count + 3]
        assert read(corpus, position, length, len(rest)) == rest


def test_a_position_survives_json(corpus: Corpus) -> None:
    ((_, position),) = read(corpus, Position(), 43, 1)
    assert Position(**json.loads(json.dumps(position.to_json()))) == position != Position()


def test_only_the_window_is_tokenized_again(corpus: Corpus) -> None:
    calls: list[int] = []

    def counting(texts: Sequence[str]) -> list[list[int]]:
        calls.append(len(texts))
        return tokenize(texts)

    (_, position) = read(corpus, Position(), 60, 1)[0]
    counted = Corpus(corpus.files, "text", counting, eos_id=EOS, seed=7, window=6, held_out=4)
    read(counted, position, 1, 1)
    assert calls and max(calls) <= 6 and sum(calls) <= 6


def test_pieces_name_where_documents_end(corpus: Corpus) -> None:
    ((sequence, _),) = islice(corpus.sequences(Position(), repeat(40)), 1)
    assert sum(sequence.lengths) == len(sequence.ids_L) == 40
    ends = np.cumsum(sequence.lengths)[:-1] - 1
    assert [int(sequence.ids_L[end]) for end in ends] == [EOS] * len(ends)
    assert int((sequence.ids_L[:-1] == EOS).sum()) == len(ends)


def test_held_out_documents_are_the_first_and_never_in_the_stream(corpus: Corpus) -> None:
    assert corpus.held_out_texts() == documents(0, 4)
    assert [ids[-1] for ids in corpus.encode(corpus.held_out_texts())] == [EOS] * 4
    held_out = {token for ids in tokenize(documents(0, 4)) for token in ids}
    assert not held_out & {token for ids, _ in read(corpus, Position(), 1, 400) for token in ids}


def test_a_window_of_one_document_preserves_the_order_of_a_file(tmp_path: Path) -> None:
    ordered = Corpus([write(tmp_path / "a.jsonl", documents(0, 9))], "text", tokenize, eos_id=EOS, seed=7, window=1)
    expected = [token for ids in tokenize(documents(0, 9)) for token in [*ids, EOS]]
    assert read(ordered, Position(), len(expected), 1)[0][0] == expected


def test_a_corpus_of_held_out_documents_alone_is_refused(tmp_path: Path) -> None:
    small = Corpus([write(tmp_path / "a.jsonl", documents(0, 3))], "text", tokenize, EOS, 7, 6, held_out=3)
    for start in (Position(), Position(document=7)):  # the second is a stale position, which must not search for ever
        with pytest.raises(TrainerError, match="none beyond the 3 held out by validation_documents"):
            read(small, start, 1, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "1"}', "a.jsonl line 2: expected text under 'text' (text_column), got nothing"),
        ('{"text": 5}', "a.jsonl line 2: expected text under 'text' (text_column), got number 5"),
        ('{"text": ', "a.jsonl line 2: "),
        ("[1]", "a.jsonl line 2: expected an object, got list [1]"),
        ('{"text": "a\\u0000"}', r'a.jsonl line 2: "a\u0000" holds the NUL'),
    ],
)
def test_a_row_without_text_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "1"}\n' + line + "\n")
    faulty = Corpus([path], "text", tokenize, eos_id=EOS, seed=7, window=6)
    with pytest.raises(TrainerError) as caught:
        read(faulty, Position(), 1, 3)
    assert str(caught.value).startswith(message)


def test_a_share_of_the_steps_is_shorter() -> None:
    lengths = [step_length(3, step, 64, 0.25) for step in range(2000)]
    short = [length for length in lengths if length < 64]
    assert 0.2 < len(short) / len(lengths) < 0.3 and min(short) == 8 and max(short) == 63
    assert {step_length(3, step, 64, 0.0) for step in range(200)} == {64}
