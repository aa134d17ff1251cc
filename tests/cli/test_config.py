import stat
from pathlib import Path

import pytest

from cli.config import Login, config_path, login_load, login_save
from cli.errors import CliError


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ANNEAL_URL", raising=False)
    monkeypatch.delenv("ANNEAL_TOKEN", raising=False)


def test_a_saved_login_is_private_and_loads_again() -> None:
    login = Login("http://127.0.0.1:1", "ant_a")
    path = login_save(login)
    assert path == config_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert login_load() == login


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    login_save(Login("http://127.0.0.1:1", "ant_a"))
    monkeypatch.setenv("ANNEAL_TOKEN", "ant_b")
    assert login_load() == Login("http://127.0.0.1:1", "ant_b")


def test_without_a_login_the_sentence_says_how_to_get_one() -> None:
    with pytest.raises(CliError, match="not logged in") as caught:
        login_load()
    assert "anneal login" in caught.value.hint


def test_a_damaged_login_is_named() -> None:
    config_path().parent.mkdir(parents=True)
    config_path().write_text("{}")
    with pytest.raises(CliError, match=r"config\.json is not a login"):
        login_load()
