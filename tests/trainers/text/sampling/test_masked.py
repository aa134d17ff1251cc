"""The loop over logits functions made by hand, against plain versions written after the papers' own code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.core.noise import Purpose, stream
from trainers.text.sampling.decoding_rules import (
    pick_dream,
    pick_llada,
    select_above,
    select_dream,
    select_evenly,
    top_k_filter,
    top_p_filter,
)
from trainers.text.sampling.masked import FROM_INPUT, Denoised, canvas_of, denoise
from trainers.text.sampling.texts import Logits, guided_logits

pytestmark = pytest.mark.numeric

VOCABULARY, MASK, PAD = 12, 11, 10
TABLE = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def toy(ids_BL: Tensor) -> Tensor:
    """Logits that depend on every token of the row and on the place: a network small enough to think about."""
    embedded = TABLE[ids_BL]
    places = torch.arange(ids_BL.shape[1], dtype=torch.float64)[:, None]
    return 2 * torch.sin(
        embedded.cumsum(1) + embedded.flip(1).cumsum(1).flip(1) + places * 0.7 + torch.arange(VOCABULARY) * 1.3
    )


def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
    del fresh
    return toy(ids_BL).gather(1, columns_BS[..., None].expand(-1, -1, VOCABULARY))


def run(
    text: list[int],
    *,
    pick: Any,
    select: Any = select_evenly,
    block_size: int = 100,
    steps: int = 4,
    logits: Logits = ask,
    **options: Any,
) -> Denoised:
    canvas = canvas_of([text], mask_id=MASK, pad_id=PAD)
    options = {"seeds": [0], **options}
    return denoise(
        canvas, logits, pick=pick, select=select, mask_id=MASK, block_size=block_size, steps=steps, **options
    )


def token_noise(seed: int, step: int, column: int) -> Tensor:
    return torch.from_numpy(stream(seed, Purpose.TOKEN, step, column).random(VOCABULARY))


def llada_reference(
    prompt: list[int], length: int, *, steps: int, block: int, remasking: str, temperature: float, cfg: float
) -> list[int]:
    """`generate` of the LLaDA repository for one prompt, its noise drawn from our streams, the mask suppressed."""
    x = torch.full((1, len(prompt) + length), MASK)
    x[0, : len(prompt)] = torch.tensor(prompt)
    from_input = x != MASK
    blocks, done = length // block, 0
    for number in range(blocks):
        stop = len(prompt) + (number + 1) * block
        per_block = steps // blocks
        masks = int((x[:, stop - block : stop] == MASK).sum())
        counts = [masks // per_block + (i < masks % per_block) for i in range(per_block)]
        for count in counts:
            index = x == MASK
            out = toy(x)
            if cfg > 0:
                blind = x.clone()
                blind[from_input] = MASK
                out = toy(blind) + (cfg + 1) * (out - toy(blind))
            out[..., MASK] = -torch.inf
            noisy = out.clone()
            if temperature > 0:
                for column in range(x.shape[1]):
                    noise = token_noise(0, done, column)
                    noisy[0, column] = out[0, column].exp() / (-torch.log(noise)) ** temperature
            x0 = noisy.argmax(-1)
            p = out.softmax(-1)
            if remasking == "low_confidence":
                sure = p.gather(-1, x0[..., None])[..., 0]
            elif remasking == "entropy":
                sure = (p * torch.log(p + 1e-300)).sum(-1)
            elif remasking == "margin":
                best = p.sort(-1, descending=True).values
                sure = best[..., 0] - best[..., 1]
            else:
                coins = [stream(0, Purpose.COIN, done, column).random() for column in range(x.shape[1])]
                sure = torch.tensor([coins], dtype=torch.float64)
            sure[:, stop:] = -np.inf
            sure = torch.where(index, sure, -np.inf)
            chosen = torch.topk(sure[0], k=count).indices
            x[0, chosen] = torch.where(index, x0, x)[0, chosen]
            done += 1
    return [int(i) for i in x[0]]


@pytest.mark.parametrize("remasking", ["low_confidence", "entropy", "margin", "random"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("length", "steps", "block"), [(8, 8, 8), (8, 3, 8), (12, 6, 4)])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_llada_equals_the_authors_code(
    remasking: str, temperature: float, length: int, steps: int, block: int, cfg: float
) -> None:
    prompt = [1, 2, 3]
    text = [*prompt, *[MASK] * length]
    expected = llada_reference(
        prompt, length, steps=steps, block=block, remasking=remasking, temperature=temperature, cfg=cfg
    )
    input_BL = torch.tensor([text]) != MASK
    logits = guided_logits(ask, input_BL, mask_id=MASK, scale=cfg) if cfg else ask
    result = run(text, pick=pick_llada(remasking, temperature), steps=steps, block_size=block, logits=logits)
    assert result.ids_BL[0].tolist() == expected
    assert result.forwards == steps and result.finished


def dream_reference(prompt: list[int], length: int, *, steps: int, alg: str, eps: float, **cut: float) -> list[int]:
    """`diffusion_generate` of the Dream repository at temperature 0, without the shift, the mask suppressed."""
    x = torch.tensor([[*prompt, *[MASK] * length]])
    times = torch.linspace(1, eps, steps + 1, dtype=torch.float64)
    for i in range(steps):
        masked = x == MASK
        out = toy(x)
        out[..., MASK] = -torch.inf
        out = out[masked]
        if cut["top_p"] < 1:
            values, order = out.sort(descending=True)
            remove = values.softmax(-1).cumsum(-1) > cut["top_p"]
            remove[..., 1:] = remove[..., :-1].clone()
            remove[..., 0] = False
            out = out.masked_fill(torch.zeros_like(remove).scatter(-1, order, remove), -torch.inf)
        if cut["top_k"]:
            out = out.masked_fill(out < out.topk(int(cut["top_k"]))[0][..., -1:], -torch.inf)
        p = out.softmax(-1)
        sure, x0 = p.max(-1)
        if alg == "topk_margin":
            best = p.sort(-1, descending=True).values
            sure = best[:, 0] - best[:, 1]
        if alg == "entropy":
            sure = (p * torch.log(p + 1e-300)).sum(-1)
        share = 1 - times[i + 1] / times[i]
        full = torch.full(x.shape, -torch.inf, dtype=torch.float64)
        full[masked] = sure
        if alg == "origin":
            coins = torch.tensor([[stream(0, Purpose.COIN, i, c).random() for c in range(x.shape[1])]])
            chosen = (coins < (share if i < steps - 1 else 1.0)) & masked
        else:
            count = int(masked.sum() * share) if i < steps - 1 else int(masked.sum())
            chosen = torch.zeros_like(masked)
            chosen[0, torch.topk(full[0], count).indices] = True
        proposed = x.clone()
        proposed[masked] = x0
        x = torch.where(chosen, proposed, x)
    return [int(i) for i in x[0]]


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "topk_margin", "entropy"])
@pytest.mark.parametrize("steps", [3, 9, 14])
@pytest.mark.parametrize(("top_p", "top_k", "eps"), [(1.0, 0, 1e-3), (0.6, 0, 1e-3), (1.0, 2, 0.2)])
def test_dream_equals_the_authors_code(alg: str, steps: int, top_p: float, top_k: int, eps: float) -> None:
    expected = dream_reference([1, 2, 3], 9, steps=steps, alg=alg, eps=eps, top_p=top_p, top_k=top_k)
    result = run(
        [1, 2, 3, *[MASK] * 9],
        pick=pick_dream(alg, 0.0, top_p, top_k),
        select=select_dream(alg, 0.0, eps),
        steps=steps,
    )
    assert result.ids_BL[0].tolist() == expected


def run_many(text: list[int], count: int, **options: Any) -> Denoised:
    """The same text in `count` rows, row i from seed i."""
    canvas = canvas_of([text] * count, mask_id=MASK, pad_id=PAD)
    return denoise(canvas, ask, mask_id=MASK, block_size=100, seeds=range(count), **options)


def test_a_temperature_draws_from_the_tempered_softmax() -> None:
    expected_llada = (toy(torch.tensor([[1, MASK]]))[0, 1]).clone()
    expected_llada[MASK] = -torch.inf
    for pick, scale in ((pick_llada("low_confidence", 0.7), 1 / 0.7), (pick_dream("entropy", 0.7, 1.0, 0), 1 / 0.7)):
        drawn = run_many([1, MASK], 1500, pick=pick, select=select_evenly, steps=1).ids_BL[:, 1]
        result = torch.bincount(drawn, minlength=VOCABULARY) / 1500
        expected = (expected_llada * scale).softmax(-1)
        assert (result - expected).abs().max() < 4 * float((expected * (1 - expected) / 1500).sqrt().max())


def test_top_p_and_top_k_keep_the_head_of_the_distribution() -> None:
    row = torch.log(torch.tensor([0.1, 0.5, 0.3, 0.06, 0.04]))
    assert top_p_filter(row, 0.7).isfinite().tolist() == [False, True, True, False, False]
    assert top_p_filter(row, 0.5).isfinite().tolist()[:2] == [False, True]
    assert top_k_filter(row, 3).isfinite().tolist() == [True, True, True, False, False]
    assert top_p_filter(row, 1.0).isfinite().all() and top_k_filter(row, 0).isfinite().all()


def test_alg_temp_draws_the_order_from_the_softmax_of_confidences() -> None:
    """Which of three masks is committed first, over many seeds."""
    confidence = pick_dream("maskgit_plus", 0.0, 1.0, 0)
    text = [1, MASK, MASK, MASK]
    out = toy(torch.tensor([text]))[0, 1:]
    out[:, MASK] = -torch.inf
    expected = (out.softmax(-1).max(-1).values / 0.5).softmax(-1)

    drawn = run_many(text, 1200, pick=confidence, select=select_dream("maskgit_plus", 0.5, 0.01), steps=3)
    result = torch.bincount(drawn.trace_BL[:, 1:].argmin(1), minlength=3) / 1200
    assert (result - expected).abs().max() < 4 * float((0.25 / 1200) ** 0.5)
    most_confident = run(text, pick=confidence, select=select_dream("maskgit_plus", 0.0, 0.01), steps=3)
    assert int(most_confident.trace_BL[0, 1:].argmin()) == int(expected.argmax())


def test_the_threshold_commits_all_confident_tokens_and_at_least_one() -> None:
    text = [1, *[MASK] * 10]
    never, half, always = (
        run(text, pick=pick_llada("low_confidence", 0.0), select=select_above(t)) for t in (1.0, 0.3, 0.0)
    )
    assert (never.forwards, always.forwards) == (10, 1)
    assert 1 < half.forwards < 10
    out = toy(torch.tensor([text]))[0, 1:]
    out[:, MASK] = -torch.inf
    sure = out.softmax(-1).max(-1).values > 0.3
    assert ((half.trace_BL[0, 1:] == 0) == sure).all() and sure.any()


def test_the_mask_and_suppressed_tokens_are_never_predicted() -> None:
    def loud(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        out = ask(ids_BL, columns_BS, fresh)
        out[..., [MASK, 3, 4]] = 100.0
        return out

    canvas = canvas_of([[1, *[MASK] * 9]], mask_id=MASK, pad_id=PAD)
    for pick, select in (
        (pick_llada("low_confidence", 1.0), select_evenly),
        (pick_dream("entropy", 1.0, 1.0, 0), select_dream("entropy", 0.0, 1e-3)),
    ):
        options: dict[str, Any] = {"pick": pick, "select": select, "mask_id": MASK, "block_size": 9, "steps": 9}
        free = denoise(canvas, loud, seeds=[0], **options).ids_BL[0, 1:]
        assert set(free.tolist()) <= {3, 4}
        assert not set(denoise(canvas, loud, seeds=[0], suppress=[3, 4], **options).ids_BL[0].tolist()) & {3, 4, MASK}


def test_blocks_are_filled_from_left_to_right() -> None:
    result = run([1, *[MASK] * 9], pick=pick_llada("low_confidence", 0.0), block_size=3, steps=9)
    trace = result.trace_BL[0]
    assert trace[0] == FROM_INPUT and sorted(trace[1:].tolist()) == list(range(9))
    assert trace[1:4].max() < trace[4:7].min() and trace[4:7].max() < trace[7:].min()
    complete = run([1, *[MASK] * 9], pick=pick_llada("low_confidence", 0.0), block_size=9, steps=9)
    assert not torch.equal(complete.ids_BL, result.ids_BL)


def test_only_masks_of_a_given_text_are_filled() -> None:
    text = [1, MASK, 2, 3, MASK, MASK, 4]
    result = run(text, pick=pick_llada("low_confidence", 0.0), block_size=2, steps=3)
    ids, trace = result.ids_BL[0].tolist(), result.trace_BL[0].tolist()
    assert [ids[i] for i in (0, 2, 3, 6)] == [1, 2, 3, 4] and MASK not in ids
    assert [trace[i] for i in (0, 2, 3, 6)] == [FROM_INPUT] * 4 and sorted(trace[i] for i in (1, 4, 5)) == [0, 1, 2]


PICKS = {
    "llada": (pick_llada("low_confidence", 0.9), select_evenly),
    "random": (pick_llada("random", 0.0), select_evenly),
    "threshold": (pick_llada("low_confidence", 0.5), select_above(0.3)),
    "dream": (pick_dream("entropy", 0.9, 0.9, 5), select_dream("entropy", 0.4, 1e-3)),
    "origin": (pick_dream("origin", 0.9, 1.0, 0), select_dream("origin", 0.0, 1e-3)),
}


@pytest.mark.parametrize("name", PICKS)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """Prompts of four lengths and an infilled text; a toy network whose rows see their own tokens alone."""
    pick, select = PICKS[name]
    texts = [[1, 2, *[MASK] * 8], [3, *[MASK] * 8], [1, MASK, 2, 2, 2, MASK, MASK, 5], [4, 4, 4, 5, *[MASK] * 8]]

    def row_logits(canvas_lengths: Sequence[int]) -> Any:
        def answer(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
            del fresh
            rows = [toy(row[None, :size])[0] for row, size in zip(ids_BL, canvas_lengths, strict=True)]
            return torch.stack([row[columns] for row, columns in zip(rows, columns_BS, strict=True)])

        return answer

    options: dict[str, Any] = {"pick": pick, "select": select, "mask_id": MASK, "block_size": 3, "steps": 6}
    seeds = [7, 8, 9, 10]
    lengths = [len(text) for text in texts]
    batch = denoise(canvas_of(texts, mask_id=MASK, pad_id=PAD), row_logits(lengths), seeds=seeds, **options)
    for index, text in enumerate(texts):
        alone = denoise(
            canvas_of([text], mask_id=MASK, pad_id=PAD), row_logits([len(text)]), seeds=[seeds[index]], **options
        )
        size = len(text)
        assert torch.equal(batch.ids_BL[index, :size], alone.ids_BL[0])
        assert torch.equal(batch.trace_BL[index, :size], alone.trace_BL[0])


def test_without_steps_each_mask_takes_one_step_for_any_block_size() -> None:
    text = [1, *[MASK] * 5, 2, MASK, MASK]
    for pick, select in (PICKS["llada"], (PICKS["threshold"][0], select_evenly)):
        result = run(text, pick=pick, select=select, block_size=4, steps=None)
        assert result.forwards == 7 and sorted(result.trace_BL[0].tolist()) == [FROM_INPUT, FROM_INPUT, *range(7)]
    few = run(text, pick=PICKS["llada"][0], block_size=4, steps=2)
    assert few.forwards == 2


@pytest.mark.parametrize("steps", [3, 7, 8, 12])
def test_steps_that_blocks_do_not_divide_are_all_taken(steps: int) -> None:
    result = run([1, *[MASK] * 12], pick=PICKS["llada"][0], block_size=4, steps=steps)
    assert result.forwards == steps
    taken = [len(set(result.trace_BL[0, 1 + first : 5 + first].tolist())) for first in (0, 4, 8)]
    assert taken == sorted(taken, reverse=True) and sum(taken) == steps and taken[0] - taken[2] <= 1


def test_later_steps_of_a_block_compute_logits_of_masked_columns_alone() -> None:
    computed: list[tuple[list[list[int]], bool]] = []

    def recording(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        computed.append((columns_BS.tolist(), fresh))
        return ask(ids_BL, columns_BS, fresh)

    result = run([1, *[MASK] * 3, 2, *[MASK] * 2], pick=PICKS["llada"][0], block_size=4, steps=None, logits=recording)
    trace = result.trace_BL[0].tolist()
    expected = []
    for first_columns, masks in (([1, 2, 3, 4], [1, 2, 3]), ([5, 6, 6, 6], [5, 6])):
        steps = sorted(trace[column] for column in masks)
        expected += [([first_columns], True)]
        expected += [([[c for c in masks if trace[c] >= step]], False) for step in steps[1:]]
    assert computed == expected


def test_a_step_uses_no_operation_of_data_dependent_size() -> None:
    """Such operations, like an index by a mask, wait for the device."""

    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func not in (torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default), func
            assert func not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default) or not any(
                index is not None and index.dtype == torch.bool for index in args[1]
            ), func
            return func(*args, **(kwargs or {}))

    for pick, select in (
        (pick_llada("low_confidence", 0.0), select_evenly),
        (pick_llada("low_confidence", 0.0), select_above(0.3)),
        (pick_dream("entropy", 0.0, 1.0, 0), select_dream("entropy", 0.0, 1e-3)),
    ):
        with Refusing():
            result = run([1, *[MASK] * 8], pick=pick, select=select, block_size=4)
        assert result.finished


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> list[int]:
        return run([1, *[MASK] * 8], pick=pick_llada("random", 1.0), seeds=[seed], steps=8).ids_BL[0].tolist()

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_stop_is_obeyed_between_steps() -> None:
    steps: list[Tensor] = []
    result = run(
        [1, *[MASK] * 8],
        pick=pick_llada("low_confidence", 0.0),
        steps=8,
        on_step=lambda ids: steps.append(ids.clone()),
        should_stop=lambda: len(steps) == 3,
    )
    assert not result.finished and result.forwards == 3
    assert [int((ids == MASK).sum()) for ids in steps] == [7, 6, 5]
