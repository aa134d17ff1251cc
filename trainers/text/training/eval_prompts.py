"""What a `masked_text` job shows of itself while it trains: answers to its prompts, with their denoising."""

from collections.abc import Callable
from pathlib import Path

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Sample
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.reporting import Reporter
from trainers.text.data.chat import prompt_ids
from trainers.text.models.base import TextBase
from trainers.text.sampling.record import text_write
from trainers.text.sampling.texts import Decoding, answers_sample

NEW_TOKENS = 64
"""Of an answer at most, and fewer where the model has no room."""


def answers_show(
    base: TextBase,
    params: MaskedTextParams,
    step: int,
    *,
    out: Path,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> bool:
    """Answers every eval prompt with the live weights, prompt i from seed + i; False: broken off.

    Each lies in samples/step-<step>-<i>.json with the step at which each token was committed.
    """
    ids = [prompt_ids(base, prompt) for prompt in params.eval_prompts]
    room = base.max_positions - max(len(prompt) for prompt in ids)
    if room < 1:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"the longest of eval_prompts takes {base.max_positions - room} tokens, which leaves no answer any room: "
            f"the base model has {base.max_positions} positions; shorten it",
        )
    seeds = [params.seed + index for index in range(len(ids))]
    reporter.emit(Progress(stage="answering", done=0, total=len(ids)))
    decoding = Decoding(max_new_tokens=min(NEW_TOKENS, room))
    texts = answers_sample(base, ids, decoding, seeds, should_stop=should_stop)
    for index, (text, prompt, seed) in enumerate(zip(texts, params.eval_prompts, seeds, strict=bool(texts))):
        path = f"samples/step-{step:08d}-{index}.json"
        text_write(out / path, base, text, {"prompt": prompt, "seed": seed, "training_step": step})
        reporter.emit(
            Sample(
                step=step,
                path=path,
                label=f"prompt {index + 1}",
                prompt=prompt,
                seed=seed,
                details={"text": text.text, "steps": text.steps},
            )
        )
    return bool(texts)
