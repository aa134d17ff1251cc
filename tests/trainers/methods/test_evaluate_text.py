import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.tiny_text import BUILDERS
from tests.trainers.text.job import Make, events_of, save_adaptor, workspace
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Validation
from trainers.contract.params.sample_text import EvaluateTextParams
from trainers.methods.evaluate_text import (
    answers_equal,
    encoded_row,
    evaluate,
    final_number,
    likelihood_bound,
    noised,
    normalized_answer,
    rows_of,
)
from trainers.text.data.chat import chat_tokenizer_of
from trainers.text.models.base import TextBase, body, hidden_padded, logits
from trainers.text.models.load import load_text
from trainers.text.sampling.texts import Text, answer_decode

ROWS = [
    {"question": "one plus one", "answer": "two"},
    {"question": "the cat", "answer": "is the dog"},
    {"question": "three", "answer": "one two three"},
]
QUICK: dict[str, Any] = {"max_new_tokens": 8, "block_size": 8, "num_noises": 4}

IDLE = {"likelihood": ("max_new_tokens", "block_size"), "exact_match": ("num_noises",)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: BUILDERS[family](root / family) for family in ("llada", "dream", "bert")}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, TextBase]:
    return {family: load_text(folder, torch.float64) for family, folder in folders.items()}


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Make:
    def build(family: str = "llada", **options: Any) -> Any:
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        idle = IDLE.get(options.get("measure", "both"), ())
        arguments = {"rows": ROWS, **{key: value for key, value in QUICK.items() if key not in idle}, **options}
        return workspace(folder, "evaluate_text", folders[family], **arguments)

    return build


def report(work: Any) -> dict[str, Any]:
    assert evaluate(work) == "succeeded"
    result: dict[str, Any] = json.loads((work.out / "samples/report.json").read_bytes())
    return result


@torch.no_grad()
def masked_nll(base: TextBase, ids: list[int], masked: tuple[int, ...]) -> float:
    """Sum of -log p of the masked tokens, from all logits at once, the mask token left out."""
    noisy = torch.tensor([[base.mask_id if place in masked else token for place, token in enumerate(ids)]])
    out = logits(base, hidden_padded(base, noisy))[0]
    if base.shift:
        out = torch.cat([out[:1], out[:-1]])
    out[:, base.mask_id] = -torch.inf
    logp: Tensor = out.log_softmax(-1)
    return -float(sum(logp[place, ids[place]] for place in masked))


@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_the_bound_is_the_mean_over_all_masks(bases: dict[str, TextBase], family: str) -> None:
    """Four scored tokens have 15 masks: the exact expectation is small enough to write down."""
    base = bases[family]
    ids, scored = [5, 6, 7, 8, 9, 10], [2, 3, 4, 5]
    exact = 0.0
    for size in range(1, 5):
        subsets = list(itertools.combinations(scored, size))
        exact += sum(4 / size * masked_nll(base, ids, subset) for subset in subsets) / len(subsets) / 4
    mask = np.isin(np.arange(6), scored)
    copies = noised(np.array(ids, np.int32), mask, base.mask_id, copies=400, seed=1, row=0)
    values = np.array(likelihood_bound(base, np.array(ids, np.int32), copies, batch_size=64))
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - exact) < 3 * error < 0.1 * exact


def test_uniform_logits_have_the_uniform_likelihood(folders: dict[str, Path]) -> None:
    """With a head of zeros every copy says n log(V - 1) exactly: the mask token is no answer."""
    base = load_text(folders["llada"], torch.float32)
    base.model.lm_head.weight.data.zero_()
    ids = np.arange(5, 17, dtype=np.int32)
    copies = noised(ids, np.ones(12, bool), base.mask_id, copies=7, seed=1, row=0)
    values = likelihood_bound(base, ids, copies, batch_size=3)
    np.testing.assert_allclose(values, 12 * math.log(base.vocab_size - 1), rtol=1e-5)


def test_a_network_without_context_has_its_exact_likelihood(folders: dict[str, Path]) -> None:
    """Tokens are independent there, so the bound is the likelihood itself: evenly spread masks must meet it."""
    base = load_text(folders["llada"], torch.float64)
    for layer in body(base).layers:
        layer.self_attn.o_proj.weight.data.zero_()
    ids = np.array([5, 9, 12, 30, 31, 7, 7, 80], np.int32)
    true = sum(masked_nll(base, ids.tolist(), (place,)) for place in range(8))
    copies = noised(ids, np.ones(8, bool), base.mask_id, copies=2000, seed=3, row=0)
    values = np.array(likelihood_bound(base, ids, copies, batch_size=500))
    assert abs(values.mean() - true) < 3 * values.std() / math.sqrt(2000) < 0.02 * true


def test_copies_mask_stratified_shares_of_scored_tokens() -> None:
    ids, scored = np.arange(40, dtype=np.int32), np.arange(40) >= 8
    copies = noised(ids, scored, 99, copies=8, seed=5, row=0)
    counts = [len(copy.masked) for copy in copies]
    assert all(1 + 4 * k <= count <= 1 + 4 * (k + 1) for k, count in enumerate(counts))
    assert all((copy.masked >= 8).all() and copy.weight == 32 / len(copy.masked) for copy in copies)
    assert all((np.flatnonzero(copy.ids_L == 99) == copy.masked).all() for copy in copies)
    again, other = (noised(ids, scored, 99, copies=8, seed=seed, row=row) for seed, row in ((5, 0), (5, 1)))
    assert all((a.masked == b.masked).all() for a, b in zip(copies, again, strict=True))
    assert any(set(a.masked) != set(b.masked) for a, b in zip(copies, other, strict=True))


def test_a_job_reports_both_measures(make: Make) -> None:
    work = make()
    result = report(work)
    summary, rows = result["summary"], result["rows"]
    assert work.facts["evaluation"] == summary and work.facts["steps"] == 3
    assert summary["rows_scored"] == summary["rows_asked"] == 3 and summary["tokens"] == sum(r["tokens"] for r in rows)
    assert summary["nll"] == pytest.approx(sum(row["nll"] for row in rows) / summary["tokens"])
    assert summary["perplexity_bound"] == pytest.approx(math.exp(summary["nll"]))
    assert summary["exact_match"] == 0 and [row["expected"] for row in rows] == [row["answer"] for row in ROWS]
    assert [row["where"] for row in rows] == ["rows.jsonl line 1", "rows.jsonl line 2", "rows.jsonl line 3"]
    (validation,) = [data for data in events_of(work) if isinstance(data, Validation)]
    assert validation.metrics["nll"] == summary["nll"]


def test_an_answer_equal_to_the_models_is_a_match(make: Make) -> None:
    answers = [row["given"] for row in report(make(measure="exact_match"))["rows"]]
    rows = [ROWS[0] | {"answer": f"  {answers[0]} "}, ROWS[1], ROWS[2] | {"answer": answers[2]}]
    assert all(text.strip() for text in answers)
    result = report(make(measure="exact_match", rows=rows))
    assert result["summary"]["exact_match"] == pytest.approx(2 / 3)
    assert [row["correct"] for row in result["rows"]] == [True, False, True]
    assert "nll" not in result["summary"] and "exact_match" not in report(make(measure="likelihood"))["summary"]


PUNCTUATED = (
    "It's $1,000.50 -- isn't it?\n#### 1,000.50",
    "Minus 3, so\n#### -3",
    "Half of 5 (2.5)\n#### 2.5",
    "The DOG said: 'one!'",
)


@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
@pytest.mark.parametrize("form", ["auto", "plain"])
def test_a_model_that_predicts_every_answer_matches_every_row(
    make: Make, bases: dict[str, TextBase], family: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BERT's tokenizer knows no capitals and puts spaces around every sign."""
    base = bases[family]

    def perfect(_: TextBase, prompts: list[list[int]], *__: Any, **___: Any) -> list[Text]:
        expected_message = [chat_tokenizer_of(base).text(answer) for answer in PUNCTUATED]
        assert len(prompts) == len(expected_message)
        return [Text(tuple(ids), (), tuple(ids), answer_decode(base, ids), 1) for ids in expected_message]

    monkeypatch.setattr("trainers.methods.evaluate_text.answers_sample", perfect)
    rows = [{"question": "say", "answer": answer} for answer in PUNCTUATED]
    result = report(make(family, rows=rows, measure="exact_match", answer_format=form))
    assert [row["correct"] for row in result["rows"]] == [True] * len(rows), result["rows"]


@pytest.mark.parametrize(("family", "sayable"), [("bert", False), ("llada", True)])
def test_an_answer_outside_the_vocabulary_never_matches(bases: dict[str, TextBase], family: str, sayable: bool) -> None:
    """BERT reads [UNK], which no decoded text shows; bytes can say everything."""
    assert normalized_answer(bases[family], "the \u732b") == ("the \u732b" if sayable else None)
    assert normalized_answer(bases[family], "the cat") == "the cat"


@pytest.mark.parametrize(
    ("params", "expected_message"),
    [
        ({"measure": "likelihood", "steps": 4}, "steps=4 does nothing with measure='likelihood'"),
        ({"measure": "likelihood", "cfg_scale": 1.0}, "cfg_scale=1.0 does nothing"),
        ({"measure": "likelihood", "answer_format": "plain"}, "answer_format='plain' does nothing"),
        ({"measure": "exact_match", "num_noises": 4}, "num_noises=4 does nothing with measure='exact_match'"),
        ({"alg": "origin", "top_p": 0.9}, "top_p=0.9 does nothing with alg='origin' at temperature=0"),
    ],
)
def test_parameters_that_do_nothing_are_refused(params: dict[str, Any], expected_message: str) -> None:
    with pytest.raises(ValidationError, match=expected_message):
        EvaluateTextParams.model_validate(params)


def test_nll_error_is_unbiased_and_absent_for_one_copy(make: Make) -> None:
    """With two copies a and b of one row: |a - b| / 2 over its tokens."""
    rows = ROWS[:1]
    result = report(make(rows=rows, measure="likelihood", num_noises=2))["summary"]
    work = make(rows=rows, measure="likelihood", num_noises=2)
    (row,) = rows_of(work, work.spec.params)
    base = load_text(work.model, torch.float32)
    encoded = encoded_row(base, row)
    copies = noised(encoded.ids_L, encoded.roles_L == 2, base.mask_id, copies=2, seed=42, row=0)
    first, second = likelihood_bound(base, encoded.ids_L, copies, batch_size=8)
    assert result["nll_error"] == pytest.approx(abs(first - second) / 2 / result["tokens"], rel=1e-4)
    assert "nll_error" not in report(make(rows=rows, measure="likelihood", num_noises=1))["summary"]


CHANGES: list[dict[str, Any]] = [
    {"num_noises": 9},
    {"num_rows": 2},
    {"seed": 7},
    {"dtype": "bfloat16"},
    {"input_template": "{{ answer }}", "output_template": "{{ question }}"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_each_parameter_changes_the_bound(make: Make, change: dict[str, Any]) -> None:
    plain = report(make(measure="likelihood"))["summary"]
    assert report(make(measure="likelihood", **change))["summary"]["nll"] != plain["nll"]


@pytest.mark.parametrize(
    "change", [{"temperature": 2.0}, {"threshold": 0.0}, {"max_new_tokens": 5}, {"cfg_scale": 3.0}]
)
def test_decoding_parameters_change_the_answers(make: Make, change: dict[str, Any]) -> None:
    def answers(**options: Any) -> list[Any]:
        return [(row["given"], row["steps"]) for row in report(make(measure="exact_match", **options))["rows"]]

    assert answers(**change) != answers()


def test_the_batch_size_changes_nothing(make: Make) -> None:
    one, many = (report(make(batch_size=size)) for size in (1, 8))
    assert [row["given"] for row in one["rows"]] == [row["given"] for row in many["rows"]]
    assert one["summary"]["nll"] == pytest.approx(many["summary"]["nll"], rel=1e-5)


def test_an_adaptor_changes_the_metrics(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    adaptor = save_adaptor(folders["llada"], tmp_path / "product")
    plain = report(make(measure="likelihood"))["summary"]["nll"]
    assert report(make(measure="likelihood", adaptors=[adaptor]))["summary"]["nll"] != pytest.approx(plain, rel=1e-3)
    none = report(make(measure="likelihood", adaptors=[adaptor], adaptor_scales=[0.0]))["summary"]["nll"]
    assert none == pytest.approx(plain, rel=1e-5)


def test_plain_texts_have_a_likelihood_and_no_answers(make: Make) -> None:
    rows = [{"text": "the cat is the dog"}, {"text": "one two"}]
    for family in ("llada", "dream", "bert"):
        assert report(make(family, rows=rows, measure="likelihood"))["summary"]["rows_scored"] == 2
    with pytest.raises(TrainerError, match="plain text has no question to answer") as caught:
        evaluate(make(rows=rows))
    assert caught.value.reason.code == ReasonCode.BAD_DATASET


def test_with_a_shift_a_plain_text_begins_with_an_unscored_token(make: Make, bases: Any) -> None:
    work = make("dream", rows=[{"text": "the cat"}], measure="likelihood")
    (row,) = rows_of(work, work.spec.params)
    base = bases["dream"]
    encoded = encoded_row(base, row)
    assert encoded.ids_L[0] == base.bos_id and encoded.roles_L[0] == 0
    assert base.tokenizer.decode(encoded.ids_L[1:-1].tolist()) == "the cat" and encoded.ids_L[-1] == base.eos_id


def test_rows_beyond_the_positions_are_reported_and_not_scored(make: Make) -> None:
    rows = [*ROWS, {"question": "x" * 300, "answer": "y"}]
    work = make(rows=rows)
    result = report(work)
    assert result["summary"]["rows_scored"] == 3 and result["summary"]["rows_asked"] == 4
    assert "the base model has 256" in result["rows"][3]["skipped"]
    assert any(data.kind == "warning" and "1 prompts have no room" in data.message for data in events_of(work))
    with pytest.raises(TrainerError, match="none of 1 rows fits"):
        evaluate(make(rows=rows[3:], measure="likelihood"))
    with pytest.raises(TrainerError, match="no prompt fits"):
        evaluate(make(measure="exact_match", max_new_tokens=256))


@pytest.mark.parametrize(
    ("answer", "expected", "form", "equal"),
    [
        ("so 3 + 4 = 7\n#### 7", "#### 7", "auto", True),
        ("#### 1,000.0", "work\n#### 1000", "auto", True),
        ("#### $5", "#### 5", "gsm8k", True),
        ("#### 5 #### 6", "#### 6", "auto", True),
        ("so # # # # 18", "#### 18", "auto", True),
        ("# # # # $ 1, 000. 5", "#### 1000.5", "auto", True),
        ("# # # # - 3", "#### -3", "auto", True),
        ("### # 18", "#### 17", "auto", False),
        ("7", "#### 7", "auto", False),
        ("#### -7", "#### 7", "auto", False),
        (" forty  two ", "forty two", "auto", True),
        ("forty-two", "forty two", "auto", False),
        ("#### 7", "so\n#### 7", "plain", False),
        ("7", "7", "gsm8k", False),
    ],
)
def test_answers_are_compared_by_answer_format(answer: str, expected: str, form: Any, equal: bool) -> None:
    assert answers_equal(answer, expected, form) is equal


def test_final_number_follows_gsm8k() -> None:
    assert final_number("a #### 12.") == 12.0 and final_number("12") is None and final_number("#### ,") is None


def test_input_and_output_template_require_each_other() -> None:
    with pytest.raises(ValidationError, match="go together"):
        EvaluateTextParams(input_template="x")


@pytest.mark.acceptance
def test_gsm8k_rows_are_measured(shared_data: Path, make: Make) -> None:
    (path, *_) = sorted((shared_data / "gsm8k").glob("*.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:3]]
    rows = [{"question": row["question"][:60], "answer": row["answer"][-20:]} for row in rows]
    result = report(make(rows=rows, num_noises=2))
    assert result["summary"]["rows_asked"] == 3 and all("####" in row["expected"] for row in result["rows"])
