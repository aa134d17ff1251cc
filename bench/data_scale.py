"""Time and memory of preparing an item of a dataset, for small and large datasets: flat where both stay equal.

    python -m bench.data_scale [--parts NAME ...] [--small 10000] [--large 100000]

Each row of the table is a function in PARTS and runs in a new process, so that its peak memory is its own. CPU time
of that process, with one thread. Text: rows of about 105 tokens, in a folder with one JSON Lines file, and a byte-level
tokenizer of 8,000 tokens that learned from docs/.
"""

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bench.measure import REPOSITORY, machine, python, table
from trainers.text.data.chat import LLADA, ChatTokenizer, encode_chat
from trainers.text.data.dataset import dialogues_encode
from trainers.text.data.rows import Dialogue, dialogues_of, rows_read

VOCABULARY = 8000
END = "<|endoftext|>"


@dataclass(frozen=True)
class Measured:
    items: int
    seconds: float
    """CPU time of the measured part for all items."""
    memory_bytes: int
    """Peak memory over that before the part."""


@dataclass(frozen=True)
class Part:
    measure: Callable[[int], Measured]
    target_milliseconds: float | None = None
    """Of an item."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--child", type=int, help="measure the only part with so many items and print JSON")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(asdict(PARTS[args.parts[0]].measure(args.child))))
        return
    print(f"{machine()}\n")
    rows = [row_of(name, args.small, args.large) for name in args.parts]
    heads = ["", f"{args.small:,} items", f"{args.large:,} items", "memory an item", "target"]
    print(table(heads, rows))


def row_of(name: str, small: int, large: int) -> list[str]:
    """A line of the table: milliseconds of CPU and peak memory of an item at both sizes."""
    target = PARTS[name].target_milliseconds
    results = [in_child(name, items) for items in (small, large)]
    times = [f"{1000 * result.seconds / result.items:.3f} ms" for result in results]
    memory = " / ".join(f"{result.memory_bytes / result.items / 1024:.2f} KiB" for result in results)
    return [name, *times, memory, f"at most {target} ms" if target else ""]


def in_child(name: str, items: int) -> Measured:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    output = python("-m", "bench.data_scale", "--parts", name, "--child", str(items), env=environment)
    return Measured(**json.loads(output.splitlines()[-1]))


def measured(items: int, work: Callable[[], object]) -> Measured:
    before, began = peak_bytes(), time.process_time()
    result = work()  # held until the peak is read
    seconds = time.process_time() - began
    del result
    return Measured(items, seconds, peak_bytes() - before)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def text_read(items: int) -> Measured:
    """From the file to dialogues."""
    with tempfile.TemporaryDirectory() as folder:
        text_folder(Path(folder), items)
        return measured(items, lambda: dialogues_of(rows_read(Path(folder))))


def text_plain(items: int) -> Measured:
    """One text at a time, every template tokenized anew for each row."""
    dialogues = text_dialogues(items)

    def encode() -> object:
        return [encode_chat(chat_tokenizer(), row.turns, supervise_all=False) for row in dialogues]

    return measured(items, encode)


def text_encode(items: int) -> Measured:
    """With an empty cache, which is written."""
    dialogues = text_dialogues(items)
    with tempfile.TemporaryDirectory() as cache_folder:
        return measured(items, lambda: text_cached(dialogues, Path(cache_folder)))


def text_cache_read(items: int) -> Measured:
    """The same job again."""
    dialogues = text_dialogues(items)
    with tempfile.TemporaryDirectory() as cache_folder:
        text_cached(dialogues, Path(cache_folder))
        return measured(items, lambda: text_cached(dialogues, Path(cache_folder)))


def text_cached(dialogues: Sequence[Dialogue], folder: Path) -> object:
    return dialogues_encode(chat_tokenizer(), dialogues, supervise_all=False, num_threads=1, cache=folder)


def text_dialogues(items: int) -> list[Dialogue]:
    """The rows; the tokenizer is trained too, so that no measurement contains it."""
    trained_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        text_folder(Path(folder), items)
        return dialogues_of(rows_read(Path(folder)))


def text_folder(folder: Path, items: int) -> None:
    """Questions of 20 words and answers of 40, pieces of docs/."""
    words, draws = docs_text().split(), random.Random(0)

    def piece(count: int) -> str:
        start = draws.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(items):
            file.write(json.dumps({"question": piece(20), "answer": piece(40)}) + "\n")


def chat_tokenizer() -> ChatTokenizer:
    """A new one, which has tokenized no template yet."""
    return ChatTokenizer(trained_tokenizer(), LLADA, eos_id=0, bos_id=None, begins_plain=False)


@cache
def trained_tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, *LLADA.needs],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([docs_text()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END)


def docs_text() -> str:
    return " ".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").glob("*.md")))


PARTS = {
    "text: read rows": Part(text_read),
    "text: encode, the plain way": Part(text_plain),
    "text: encode in batches": Part(text_encode, target_milliseconds=0.35),
    "text: encode, from the cache": Part(text_cache_read),
}

if __name__ == "__main__":
    main()
