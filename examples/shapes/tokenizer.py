"""Our own CLIPTokenizer: each word of the vocabulary is one token, any other text falls back to bytes."""

from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

WORDS = [
    *("a", "at", "the", "on", "top", "bottom", "left", "right", "large", "small"),
    *("background", "white", "black", "red", "orange", "yellow", "green", "blue", "purple"),
    *("circle", "square", "triangle", "diamond", "cross", "ring"),
]
LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer() -> CLIPTokenizer:
    """Bytes, bytes that end a word, one entry per merge, start, end; padding is the end token."""
    letters = sorted(ByteLevel.alphabet())
    merges = word_merges(WORDS)
    entries = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )


def word_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token.

    Words are added one at a time: what the merges so far leave in pieces is joined from the left. A later merge ranks
    below every earlier one, so it cannot break a word that is whole already.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = split_word(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges


def split_word(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte pair encoding of one word: the pair that ranks first is joined first."""
    ranks = {pair: i for i, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
        first = min(pairs, key=ranks.__getitem__)
        at = next(i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == first)
        pieces[at : at + 2] = [first[0] + first[1]]
    return pieces
