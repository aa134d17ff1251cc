"""How masks become tokens: what `sample_text` and `evaluate_text` share. Standard library and pydantic only."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from trainers.contract.params.base import Params, scales_check

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
"""What only has a say where masks become tokens."""
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

    def libraries(self) -> tuple[str, ...]:
        return ("bitsandbytes",) if self.load_in_4bit else ()

    def family_problem(self, family: str) -> str:
        """A causal base shifts its logits or not, as it was trained, which only its files tell."""
        shift = {"dream": True, "llada": False, "bert": False, "modernbert": False}.get(family)
        return "" if shift is None else self.shift_problem(shift)

    def shift_problem(self, shift: bool) -> str:
        """What is set that a base with Dream's shift, or without it, has no use for."""
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
