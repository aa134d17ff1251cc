"""The dataset of a `masked_text` job as its parameters ask for it: read, encoded, cut, split."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.site import Site
from trainers.core.split import split
from trainers.text.data.chat import Encoded, tongue_of
from trainers.text.data.dialogues import Dialogue, dialogues_of
from trainers.text.data.documents import Counts, EosPadding, documents_of
from trainers.text.data.rows import bad_rows, rows_read, split_counts
from trainers.text.data.tokens import dialogues_encode
from trainers.text.models.base import TextBase

FEWEST_ROWS = 10
"""Below it nothing is held out."""
USUAL_LENGTH = 1024


@dataclass(frozen=True)
class TextDataset:
    documents: Sequence[Encoded]
    places: Sequence[str]
    """Where each document came from, for people."""
    trained: Sequence[int]
    held_out: Sequence[int]
    counts: Counts
    chat_format: str
    splits: dict[str, Any]
    """Which split was read and the rows of each, where there are several."""

    def facts(self) -> dict[str, object]:
        """For the manifest: what became of the rows."""
        return {**asdict(self.counts), "held_out": len(self.held_out), "chat_format": self.chat_format, **self.splits}


def dataset_read(site: Site[MaskedTextParams], base: TextBase) -> TextDataset:
    """Rank 0 encodes and fills the cache, then all read it. TrainerError BAD_DATASET: a faulty row, or nothing left."""
    dialogues = dialogues_of(
        rows_read(site.work.dataset, site.params.split_of),
        input_template=site.params.input_template,
        output_template=site.params.output_template,
    )
    if site.processes.rank == 0:
        _encode(site, base, dialogues)
    site.processes.barrier()
    rows = _encode(site, base, dialogues)
    padding = EosPadding.parse(site.params.eos_padding)
    documents, origins, counts = documents_of(
        rows,
        max_length=max_length_of(site.params, base),
        truncation=site.params.truncation,
        padding=padding,
        eos_id=base.eos_id,
    )
    _tell(site, counts)
    trained, held_out = _split(site, len(documents))
    places = [dialogues[row].where for row in origins]
    splits = split_counts(site.work.dataset, site.params.split_of)
    return TextDataset(documents, places, trained, held_out, counts, tongue_of(base).format.name, splits)


def max_length_of(params: MaskedTextParams, base: TextBase) -> int:
    """Tokens of a document; a place is left for the BOS that Dream may put before it."""
    if params.max_length is not None and params.max_length > base.max_positions:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"max_length={params.max_length} is more than the {base.max_positions} positions of the base model",
        )
    length = params.max_length or min(USUAL_LENGTH, base.max_positions)
    return length - int(length == base.max_positions and params.training_method == "dream")


def _encode(site: Site[MaskedTextParams], base: TextBase, dialogues: Sequence[Dialogue]) -> list[Encoded]:
    return dialogues_encode(
        tongue_of(base),
        dialogues,
        supervise_all=site.params.supervise_turns == "all",
        num_proc=site.params.num_proc,
        cache=site.work.cache,
    )


def _split(site: Site[MaskedTextParams], count: int) -> tuple[list[int], list[int]]:
    share = site.params.validation_split if site.params.evaluates else 0.0
    if share and count < FEWEST_ROWS:
        _warn(site, f"{count} rows are fewer than {FEWEST_ROWS}, so none is held out and there is no validation")
        share = 0.0
    if share:
        share = min(share, site.params.max_validation_rows / count)
    return split(count, share, site.params.seed)


def _tell(site: Site[MaskedTextParams], counts: Counts) -> None:
    dropped = counts.filtered + counts.without_response
    if not counts.documents:
        raise bad_rows(
            f"none of {counts.rows} rows is left: {counts.filtered} are longer than max_length, "
            f"{counts.without_response} would lose their response at max_length"
        )
    if counts.truncated or dropped:
        _warn(
            site,
            f"of {counts.rows} rows {counts.truncated} were cut at max_length, {counts.filtered} dropped for being "
            f"longer, {counts.without_response} dropped since nothing of their response was left",
        )


def _warn(site: Site[MaskedTextParams], message: str) -> None:
    site.reporter.say(Warning_(message=message))
