"""Adaptors by what their manifests say: the grammar of conditions, the order, and what is not let through."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.catalog.models import Adaptor
from tests.api.host import Host
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/adaptors"
MANIFESTS: list[dict[str, Any]] = [
    {"params": {"lora_r": 8, "text": "8"}, "metrics": {"loss": 0.5}, "done": True},
    {"params": {"lora_r": 8.0, "text": "Eight"}, "metrics": {"loss": 0.1}, "done": False},
    {"params": {"lora_r": 16, "text": "sixteen"}, "metrics": {"loss": "bad"}, "validation": {"loss/all": 1}},
    {"params": {"lora_r": 4}, "metrics": {}},
    {"params": [], "metrics": {"loss": -1e-9}},
]


@pytest.fixture
def adaptors(user: APIClient, host: Host, world: World) -> list[str]:
    """One of each manifest, oldest first: a@1 to a@5."""
    for _ in MANIFESTS:
        request = {**world.request, "params": {**world.request["params"], "adaptor_name": "a"}}
        user.post("/api/v1/jobs", request, format="json")
        agent = host.claim()
        agent.start()
        assert agent.finish().status_code == 200
    for number, manifest in enumerate(MANIFESTS, 1):
        Adaptor.objects.filter(version=number).update(manifest=manifest)
    return [f"a@{number}" for number in range(1, 6)]


def found(user: APIClient, query: str) -> str:
    """Versions in the order of the answer."""
    answer = user.get(f"{PATH}?{query}")
    assert answer.status_code == 200, answer.content
    return "".join(str(row["version"]) for row in answer.json()["results"])


@pytest.mark.usefixtures("adaptors")
def test_each_operator_finds_what_it_says(user: APIClient) -> None:
    for query, versions in (
        ("params.lora_r=8", "21"),
        ("manifest.params.lora_r=8", "21"),
        ("params.lora_r=8.0", "21"),
        ("params.text=8", "1"),
        ("params.lora_r__ne=8", "43"),
        ("params.text__ne=8", "32"),
        ("metrics.loss__lt=0.5", "52"),
        ("metrics.loss__lte=0.5", "521"),
        ("metrics.loss__gt=0", "21"),
        ("metrics.loss__gte=0.5", "1"),
        ("params.lora_r__in=4,16", "43"),
        ("params.text__contains=EIGH", "2"),
        ("params.text__exists=false", "54"),
        ("metrics.loss__exists=true", "5321"),
        ("manifest.done=true", "1"),
        ("manifest.done__ne=true", "2"),
        ("manifest.validation.loss/all=1", "3"),
        ("manifest.params__exists=true", ""),
        ("params.lora_r=8&metrics.loss__lt=0.2", "2"),
        ("metrics.loss=bad", "3"),
        ("params.nothing.there=1", ""),
        ("unknown=1", "54321"),
    ):
        assert found(user, query) == versions, query


@pytest.mark.usefixtures("adaptors")
def test_a_number_sorts_and_what_has_none_comes_last(user: APIClient) -> None:
    assert found(user, "sort=metrics.loss") == "52134", "a text stands before nothing"
    assert found(user, "sort=-metrics.loss") == "12534"
    assert found(user, "sort=params.lora_r") == "42135"
    assert found(user, "sort=created") == "12345"
    assert found(user, "sort=-version") == found(user, "sort=name") == "54321"


TEXTS: list[dict[str, Any]] = [
    {"training_method": "llada", "resp_cutoff_ratio": 0.0, "mask_prompt_loss": True},
    {"training_method": "dream", "resp_cutoff_ratio": 0.2, "mask_prompt_loss": False, "geo_p": 0.3},
    {"training_method": "dream", "resp_cutoff_ratio": 0.1, "dataset": {"truncated": 7, "rows": 9}},
    {"training_method": "bert", "loss_weight_type": "scheduler"},
    {},
]


@pytest.mark.usefixtures("adaptors")
def test_text_adaptors_are_found_and_sorted_by_what_their_manifests_record(user: APIClient) -> None:
    for number, manifest in enumerate(TEXTS, 1):
        Adaptor.objects.filter(version=number).update(manifest=manifest)
    for query, versions in (
        ("manifest.training_method=dream", "32"),
        ("manifest.training_method=dream&sort=manifest.resp_cutoff_ratio", "32"),
        ("sort=manifest.training_method", "43215"),
        ("sort=-manifest.training_method", "13245"),
        ("sort=manifest.mask_prompt_loss", "21543"),
        ("sort=-manifest.resp_cutoff_ratio", "23154"),
        ("manifest.mask_prompt_loss=false", "2"),
        ("manifest.dataset.truncated__gt=0", "3"),
    ):
        assert found(user, query) == versions, query
    facts = {row["version"]: row["facts"] for row in user.get(PATH).json()["results"]}
    assert facts[3] == {"training_method": "dream", "resp_cutoff_ratio": 0.1, "truncated": 7}
    assert (facts[2]["geo_p"], facts[5]) == (0.3, {})


@pytest.mark.usefixtures("adaptors")
@pytest.mark.parametrize(
    "sort", ["manifest.done", "metrics.loss", "-metrics.loss", "params.none", "-created", "name", "size_bytes"]
)
def test_pages_of_a_sorted_list_hold_each_row_once(user: APIClient, sort: str) -> None:
    complete, pages, address = found(user, f"sort={sort}"), "", f"{PATH}?sort={sort}&limit=2"
    while address:
        answer = user.get(address).json()
        pages += "".join(str(row["version"]) for row in answer["results"])
        address = answer["next"]
    assert pages == complete


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("sort=secret", "sort"),
        ("sort=details.key", "sort"),
        ("sort=metrics.", "sort"),
        ("sort=metrics.a'b", "sort"),
        ("metrics.loss__lt=low", "metrics.loss__lt"),
        ("metrics.loss__lt=nan", "metrics.loss__lt"),
        ("metrics.loss__exists=1", "metrics.loss__exists"),
        ('metrics.lo"ss=1', 'metrics.lo"ss'),
        ("metrics.loss__regex=.", None),
        ("manifest." + "a." * 9 + "b=1", "manifest." + "a." * 9 + "b"),
        ("partial=maybe", None),
        ("base_model=../x", "base_model"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_or_harmless(user: APIClient, query: str, field: str | None) -> None:
    answer = user.get(f"{PATH}?{query}")
    if query.startswith("metrics.loss__regex"):
        assert (answer.status_code, answer.json()["results"]) == (200, []), "it is a key of that name"
        return
    assert answer.status_code == 400, answer.content
    assert field is None or list(answer.json()["fields"]) == [field]


def test_too_many_conditions_are_refused(user: APIClient) -> None:
    assert user.get(f"{PATH}?" + "&".join(f"metrics.m{i}=1" for i in range(21))).status_code == 400


@pytest.mark.usefixtures("adaptors")
def test_columns_filter_too(user: APIClient) -> None:
    user.patch(f"{PATH}/a@2", {"tags": ["good", "final"], "notes": "the one"}, format="json")
    for query, versions in (
        ("tag=good", "2"),
        ("tag=bad", ""),
        ("base_model=base", "54321"),
        ("base_model=base@1", "54321"),
        ("base_model=base@2", ""),
        ("partial=true", ""),
        ("name=a&partial=false", "54321"),
        ("name=b", ""),
    ):
        assert found(user, query) == versions, query
    shown = user.get(f"{PATH}/a@2").json()
    assert (shown["tags"], shown["notes"], shown["metrics"]) == (["final", "good"], "the one", {"loss": 0.1})
    assert user.patch(f"{PATH}/a@2", {"tags": []}, format="json").json()["notes"] == "the one"
    assert user.patch(f"{PATH}/a@2", {"name": "b"}, format="json").status_code == 400


@pytest.mark.parametrize("count", [10, 100])
@pytest.mark.usefixtures("adaptors")
def test_lists_ask_as_often_for_many_as_for_few(
    user: APIClient, count: int, django_assert_max_num_queries: Any
) -> None:
    from_one = Adaptor.objects.get(version=1)
    attempts = _attempts(from_one, count)
    Adaptor.objects.bulk_create(_copy(from_one, attempt, 10 + i) for i, attempt in enumerate(attempts))
    for query in ("sort=-metrics.loss", "params.lora_r=8", ""):
        with django_assert_max_num_queries(4):
            assert len(user.get(f"{PATH}?limit=200&{query}").json()["results"]) >= count


def _attempts(adaptor: Adaptor, count: int) -> list[Any]:
    one = adaptor.attempt
    rows: Any = type(one)
    created = []
    for number in range(count):
        fields = {f.attname: getattr(one, f.attname) for f in rows._meta.concrete_fields if f.name != "id"}
        unique = {"n": 100 + number, "fence": 100 + number, "token_hash": str(number)}
        claim = {"claim_id": f"00000000-0000-0000-0000-{number:012d}"}
        created.append(rows(**{**fields, **unique, **claim}))
    rows.objects.bulk_create(created)
    return created


def _copy(adaptor: Adaptor, attempt: Any, version: int) -> Adaptor:
    stored = ("project_id", "name", "job_id", "method", "base_model_id", "digest", "files", "size_bytes", "manifest")
    body = {name: getattr(adaptor, name) for name in stored}
    return Adaptor(**body, version=version, attempt=attempt, key=f"{adaptor.key}/{version}")
