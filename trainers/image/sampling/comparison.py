"""Which images a sampling job draws: every seed once, or in two or three ways side by side."""

import re
from dataclasses import dataclass

from trainers.contract.params.sample_image import SampleImageParams
from trainers.contract.spec import InputRef


@dataclass(frozen=True)
class Column:
    """One way to draw every seed. A plain job has one, a comparison two or three."""

    label: str
    prompt: str
    with_adaptors: bool

    @property
    def slug(self) -> str:
        return self.label.replace(" + ", "-")


def columns_of(params: SampleImageParams, adaptors: tuple[InputRef, ...]) -> list[Column]:
    """What is drawn: the prompt once, or for a comparison the prompt without, with, and with the trigger words.

    A trigger word that the prompt has already is not put there twice, and makes no column of its own.
    """
    if not params.compare:
        return [Column("image", params.prompt, with_adaptors=True)]
    assert adaptors, "JobSpec refuses compare without an adaptor"
    columns = [Column("base", params.prompt, with_adaptors=False), Column("adaptor", params.prompt, with_adaptors=True)]
    words = [str(adaptor.details.get("trigger_word") or "") for adaptor in adaptors]
    missing = [word for word in dict.fromkeys(words) if word and not _says(params.prompt, word)]
    if missing:
        columns.append(Column("adaptor + trigger", ", ".join([*missing, params.prompt]), with_adaptors=True))
    return columns


def _says(prompt: str, word: str) -> bool:
    """As a word of its own: "category" does not say "cat"."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt) is not None


def seeds_of(params: SampleImageParams) -> list[int]:
    return [params.seed + i for i in range(params.num_images)]
