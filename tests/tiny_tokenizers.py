"""Small real tokenizers of the kinds that text models have, trained on a few sentences."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "User: Jack has 42 pounds.",
    "Assistant: he is the big cat, isn't he?",
    "the cat has the dog",
    "Jack is big",
    "he has a cat and a dog, a big dog",
]
SPECIALS = ["<s>", "</s>", "<mask>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama 2 has it: SentencePiece's BPE as one word, with bytes for what it does not know."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.train_from_iterator(SENTENCES * 4, _bpe(["<unk>", *SPECIALS, *BYTES]))
    inner.pre_tokenizer = None
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(inner)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's other model, with a Metaspace before and after it, as Gemma's or T5's."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.train_from_iterator(
        SENTENCES * 4,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", *SPECIALS], unk_token="<unk>", show_progress=False
        ),
    )
    return _wrapped(inner)


def byte_level() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.train_from_iterator(SENTENCES * 4, _bpe(SPECIALS, pre_tokenizers.ByteLevel.alphabet()))
    return _wrapped(inner)


def wordpiece() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["<unk>", *SPECIALS], show_progress=False)
    inner.train_from_iterator(SENTENCES * 4, trainer)
    return _wrapped(inner)


def byte_level_with_a_blank_first() -> PreTrainedTokenizerFast:
    """As RoBERTa's where its config says add_prefix_space."""
    fast = byte_level()
    fast.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return fast


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "metaspace": metaspace,
    "unigram": unigram,
    "byte_level": byte_level,
    "byte_level_with_a_blank_first": byte_level_with_a_blank_first,
    "wordpiece": wordpiece,
}


def _bpe(specials: list[str], alphabet: list[str] | None = None) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet or [], show_progress=False
    )


def _wrapped(inner: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", mask_token="<mask>")
