"""What a trainer sees of the worker's environment, and which accelerators."""

import pytest

from worker.host.slots import accelerators_of, parse_query
from worker.process.launch import secrets_in, trainer_environment
from worker.process.tree import ATTEMPT_MARK, WORKER_MARK

MARKS = {ATTEMPT_MARK: "a", WORKER_MARK: "w"}


def test_only_the_allow_list_passes() -> None:
    arguments = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://p",
        "NCCL_IB_HCA": "mlx5_0",
        "WANDB_PROJECT": "p",
    }
    secret = {
        "ANNEAL_WORKER_TOKEN": "x",
        "WANDB_API_KEY": "x",
        "HF_TOKEN": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "MINE": "1",
    }
    env = trainer_environment(arguments | secret, marks=MARKS, accelerators=(), extra=("MINE",))
    assert arguments.items() <= env.items() and env["MINE"] == "1"
    assert not {"ANNEAL_WORKER_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET"} & set(env)


@pytest.mark.parametrize(("accelerators", "observed"), [((), ""), ((2, 0), "2,0")])
def test_exactly_the_assigned_accelerators_are_visible(accelerators: tuple[int, ...], observed: str) -> None:
    env = trainer_environment({"CUDA_VISIBLE_DEVICES": "7"}, marks=MARKS, accelerators=accelerators)
    assert env["CUDA_VISIBLE_DEVICES"] == observed and env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_passwords_of_proxies_are_known_secrets() -> None:
    assert secrets_in({"https_proxy": "http://me:hunter22@proxy:3128", "NO_PROXY": "a"}) == ["hunter22"]


def test_the_drivers_answer_is_read() -> None:
    result = parse_query("0, NVIDIA H200, 143771\n1, NVIDIA GB10, [N/A]\n")
    assert [(a.index, a.name, a.memory_bytes) for a in result] == [
        (0, "NVIDIA H200", 143771 * 2**20),
        (1, "NVIDIA GB10", 0),
    ]


def test_an_index_that_the_driver_does_not_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert accelerators_of("none") == ()
    with pytest.raises(ValueError, match="ANNEAL_ACCELERATORS=63"):
        accelerators_of("63")
