"""Parameters of `sample_text` and `evaluate_text`, and of their decoding: how masks become tokens."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from formats.datasets.splits import split_evaluated
from trainers.contract.params.base import SPLIT, Params, Product, scales_check

if TYPE_CHECKING:
    from trainers.contract.spec import Inputs

DREAM_ONLY = ("alg", "alg_temp", "top_p", "top_k", "eps")
DECODING = (
    "max_new_tokens",
    "steps",
    "block_size",
    "remasking",
    *DREAM_ONLY,
    "temperature",
    "cfg_scale",
    "suppress_tokens",
    "cache",
    "threshold",
)
"""Fields that only affect decoding."""
TEXT_FAMILIES = ("bert", "modernbert", "llada", "dream", "llama", "qwen2", "qwen3")


class DecodingParams(Params):
    """Fields of every method that denoises text. Not a method of its own."""

    adaptor_scales: tuple[float, ...] = ()
    """Strength of each adaptor in the order of the job's adaptors; empty = 1.0 each."""
    max_new_tokens: int | None = Field(None, ge=1, le=8192)
    """Masks after each prompt; none = 128. A text ends earlier where an end token comes."""
    steps: int | None = Field(None, ge=1, le=8192)
    """Denoising steps, shared out over the blocks, the first of which take what is left over; none = one per mask."""
    block_size: int = Field(32, ge=1, le=8192)
    """Masks are filled block by block from the left; at least the number of masks = all at once."""
    remasking: Literal["low_confidence", "entropy", "margin", "random"] | None = None
    """Which tokens are committed first: the likeliest (none), those of least entropy, of most margin before the second
    choice, or any. Not for Dream."""
    alg: Literal["origin", "maskgit_plus", "topk_margin", "entropy"] | None = None
    """Dream: which tokens are committed first: any, the likeliest, of most margin, of least entropy; none = entropy."""
    alg_temp: float | None = Field(None, ge=0, le=10)
    """Dream: draw which tokens are committed, the surer the likelier; none or 0 = always the surest."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Dream: draw from the likeliest tokens that together have this probability; none = all."""
    top_k: int | None = Field(None, ge=1, le=100_000)
    """Dream: draw from so many likeliest tokens; none = all."""
    eps: float | None = Field(None, gt=0, lt=1)
    """Dream: time at which the last step begins to end; none = 0.001."""
    temperature: float = Field(0.0, ge=0, le=10)
    """Of the draw of each token (Gumbel noise in fp64); 0 = the likeliest."""
    cfg_scale: float = Field(0.0, ge=0, le=20)
    """Classifier-free guidance: u + (cfg_scale + 1)(c - u), u without sight of the prompt; 0 = off."""
    suppress_tokens: tuple[int, ...] = Field((), max_length=1000)
    """Ids of tokens that are never chosen; the mask token never is."""
    cache: Literal["none", "prefix", "dual"] = "none"
    """Keys and values of a block's surroundings are computed once for the block: of what is before it (prefix), or
    around it (dual). Faster, and not exactly the same."""
    threshold: float | None = Field(None, ge=0, le=1)
    """Commit every token whose probability is above it in each step, at least one; 0.9 is usual. none = by steps."""
    batch_size: int = Field(8, ge=1, le=256)
    """Texts that are denoised at once."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Text i is drawn from seed + i, so that each can be made again alone."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of weights and computation."""
    load_in_4bit: bool = False
    """Keep the weights in 4 bits (nf4); needs bitsandbytes on the worker."""

    def check_inputs(self, inputs: "Inputs") -> None:
        scales_check("adaptor_scales", self.adaptor_scales, inputs)

    @property
    def random_seed(self) -> int:
        return self.seed

    def libraries(self) -> tuple[str, ...]:
        return ("bitsandbytes",) if self.load_in_4bit else ()

    def family_problem(self, family: str) -> str:
        """Whether a causal base shifts its logits depends on its training, which only its files record."""
        shift = {"dream": True, "llada": False, "bert": False, "modernbert": False}.get(family)
        return "" if shift is None else self.shift_problem(shift)

    def shift_problem(self, shift: bool) -> str:
        """Which field has no effect on a base with Dream's shift, or without it."""
        idle = ("remasking",) if shift else DREAM_ONLY
        named = [f"{name}={getattr(self, name)!r}" for name in idle if getattr(self, name) is not None]
        if not named:
            return ""
        if shift:
            return f"{named[0]} is for base models other than Dream; choose alg"
        return f"{named[0]} is for Dream, or what was trained as Dream; leave it out, or choose remasking"

    @model_validator(mode="after")
    def _decoding_agrees(self) -> Self:
        """
        - `threshold` decides how many tokens a step commits, so `steps`, `eps` and `alg_temp` have no say beside it.
        - `threshold` needs probabilities: `remasking` low_confidence, `alg` maskgit_plus.
        - `alg_temp` has no say with `alg` origin, nor have `top_p` and `top_k` there at `temperature` 0.
        """
        if self.threshold is not None:
            for name in ("steps", "eps", "alg_temp"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}={getattr(self, name)} does nothing with threshold={self.threshold}")
            if self.remasking not in (None, "low_confidence") or self.alg not in (None, "maskgit_plus"):
                raise ValueError(
                    f"threshold={self.threshold} looks at probabilities, but remasking={self.remasking!r} and "
                    f"alg={self.alg!r}; choose low_confidence or maskgit_plus, or leave them out"
                )
        if self.alg == "origin" and self.alg_temp is not None:
            raise ValueError(f"alg_temp={self.alg_temp} does nothing with alg='origin'; choose another alg")
        if self.alg == "origin" and not self.temperature and (idle := self.changed("top_p", "top_k")):
            raise ValueError(f"{idle} does nothing with alg='origin' at temperature=0; raise temperature")
        return self


MASK = "[MASK]"
"""What stands for one mask in infill_texts; [MASK:5] stands for five."""
GAPS = re.compile(r"\[MASK[^\]]{0,20}\]?")
GAP = re.compile(r"\[MASK(:[1-9]\d{0,3})?\]")
MAX_CHARACTERS = 100_000
Chat = tuple[dict[str, str], ...]


class SampleTextParams(DecodingParams):
    """Answers prompts or chats, or fills the gaps of texts, by denoising, with any number of adaptors."""

    method: ClassVar[str] = "sample_text"
    summary: ClassVar[str] = "Answer prompts, or fill gaps in texts, with a text-diffusion model and adaptors."
    entry: ClassVar[str] = "trainers.methods.sample_text:sample"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("model",)
    accepts: ClassVar[tuple[str, ...]] = ("adaptors",)
    model_families: ClassVar[tuple[str, ...]] = TEXT_FAMILIES
    resident_fields: ClassVar[tuple[str, ...]] = ("dtype", "load_in_4bit")

    prompts: tuple[str, ...] = Field((), max_length=256)
    """Questions, each answered in the base's own chat format."""
    messages: tuple[Chat, ...] = Field((), max_length=256)
    """Chats of {role, content}, each ending with the user's turn, which is answered."""
    infill_texts: tuple[str, ...] = Field((), max_length=256)
    """Texts with gaps: [MASK] is one token, [MASK:5] five. What is there stays as it is."""
    num_samples: int = Field(1, ge=1, le=64)
    """Texts for each prompt, chat or text with gaps."""

    @property
    def requests(self) -> tuple[Any, ...]:
        """Whichever of the three is set."""
        return self.prompts or self.messages or self.infill_texts

    @field_validator("prompts", "infill_texts")
    @classmethod
    def _texts_have_content(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not text.strip() or len(text) > MAX_CHARACTERS:
                raise ValueError(f"each must have 1 to {MAX_CHARACTERS} characters, got {len(text)}")
        return value

    @field_validator("messages")
    @classmethod
    def _chats_end_with_the_user(cls, value: tuple[Chat, ...]) -> tuple[Chat, ...]:
        for chat in value:
            if not chat or any(set(turn) != {"role", "content"} for turn in chat) or chat[-1]["role"] != "user":
                raise ValueError("each must be turns of {role, content} of which the last is the user's")
        return value

    @field_validator("infill_texts")
    @classmethod
    def _texts_have_gaps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if "[MASK" not in text:
                raise ValueError(f"each must have a gap, {MASK} or [MASK:5]; got {text[:60]!r}")
            if wrong := [gap[0] for gap in GAPS.finditer(text) if not GAP.fullmatch(gap[0])]:
                raise ValueError(
                    f"a gap is {MASK} or [MASK:n] with n from 1 to 9999, got {wrong[0]!r} in {text[:60]!r}"
                )
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - One of `prompts`, `messages` and `infill_texts` is given.
        - `infill_texts` say themselves how many masks they have: `max_new_tokens` has no say.
        """
        sources = [name for name in ("prompts", "messages", "infill_texts") if getattr(self, name)]
        if len(sources) != 1:
            raise ValueError(f"give one of prompts, messages and infill_texts, got {' and '.join(sources) or 'none'}")
        if self.infill_texts and self.max_new_tokens is not None:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} does nothing with infill_texts; write [MASK:n]")
        return self


class EvaluateTextParams(DecodingParams):
    """Measures a text-diffusion model on rows: a bound of their likelihood, and how many it answers exactly."""

    method: ClassVar[str] = "evaluate_text"
    summary: ClassVar[str] = "Measure a text-diffusion model on rows: likelihood bound, exact match of answers."
    entry: ClassVar[str] = "trainers.methods.evaluate_text:evaluate"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("dataset", "model")
    accepts: ClassVar[tuple[str, ...]] = ("adaptors",)
    dataset_kind: ClassVar[Literal["images", "text", "weights"] | None] = "text"
    model_families: ClassVar[tuple[str, ...]] = TEXT_FAMILIES
    resident_fields: ClassVar[tuple[str, ...]] = ("dtype", "load_in_4bit")

    measure: Literal["both", "likelihood", "exact_match"] = "both"
    """The bound of the likelihood of each row's answer (or plain text), exact answers, or both."""
    split: str = Field("", pattern=rf"^$|{SPLIT}")
    """Which split of the dataset; empty = test, else validation, else all rows."""
    num_rows: int = Field(100, ge=0, le=1_000_000)
    """How many of the split's first rows; 0 = all."""
    input_template: str = Field("", max_length=20_000)
    """Jinja template of the prompt over the row's columns; needs output_template."""
    output_template: str = Field("", max_length=20_000)
    """Jinja template of the expected answer; needs input_template."""
    num_noises: int = Field(16, ge=1, le=4096)
    """Noised copies of each row for the bound, of evenly spread shares of masked tokens."""
    answer_format: Literal["auto", "gsm8k", "plain"] = "auto"
    """gsm8k compares the numbers after ####, plain the whole answer; auto = gsm8k where #### is expected."""

    def split_of(self, splits: Sequence[str]) -> str:
        return split_evaluated(splits, self.split)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - `input_template` and `output_template` go together.
        - `measure` likelihood decodes nothing, exact_match noises nothing.
        """
        if self.measure == "likelihood" and (idle := self.changed("answer_format", *DECODING)):
            raise ValueError(f"{idle} does nothing with measure='likelihood'; leave it out")
        if self.measure == "exact_match" and (idle := self.changed("num_noises")):
            raise ValueError(f"{idle} does nothing with measure='exact_match'; leave it out")
        if bool(self.input_template) != bool(self.output_template):
            raise ValueError("input_template and output_template go together; write both or none")
        return self
