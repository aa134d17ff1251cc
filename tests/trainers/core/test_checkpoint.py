import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.contract.errors import TrainerError
from trainers.core.checkpoint import (
    checkpoint_load,
    checkpoint_save,
    newest_checkpoint,
    optimizer_load_state,
    optimizer_state,
    rng_load_state,
    rng_state,
)
from trainers.core.optim import Group, optimizer_of

TENSORS = {"weights": {"a": torch.arange(6.0).view(2, 3)}, "rng": {"0.torch": torch.tensor([1, 2], dtype=torch.uint8)}}


def save(root: Path, step: int, keep: int = 3) -> Path:
    return checkpoint_save(root, step=step, tensors=TENSORS, state={"seq": 4}, keep=keep)


def test_a_checkpoint_loads_what_was_saved(tmp_path: Path) -> None:
    loaded = checkpoint_load(save(tmp_path, 100))
    assert loaded.step == 100
    assert loaded.state["seq"] == 4
    assert torch.equal(loaded.tensors["weights"]["a"], TENSORS["weights"]["a"])
    assert loaded.tensors["rng"]["0.torch"].dtype == torch.uint8


def test_only_the_latest_remain(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_step_saved_twice_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert checkpoint_load(save(tmp_path, 1)).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_newest_complete_checkpoint_is_found_in_any_folder(tmp_path: Path) -> None:
    arguments, local = save(tmp_path / "in", 7), tmp_path / "out"
    assert newest_checkpoint(None, local) is None
    assert newest_checkpoint(arguments, local) == arguments
    later = save(local, 9)
    assert newest_checkpoint(arguments, local) == later
    later.joinpath("manifest.json").unlink()
    assert newest_checkpoint(arguments, local) == arguments


@pytest.mark.parametrize("name", ["weights.safetensors", "rng.safetensors", "state.json"])
def test_a_changed_or_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    folder.joinpath(name).write_bytes(folder.joinpath(name).read_bytes() + b" ")
    with pytest.raises(TrainerError, match=f"expected SHA-256 .* of step-00000001/{name}, got"):
        checkpoint_load(folder)
    folder.joinpath(name).unlink()
    with pytest.raises(TrainerError, match="got no file"):
        checkpoint_load(folder)


def test_a_malformed_manifest_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    folder.joinpath("manifest.json").write_text("{}")
    with pytest.raises(TrainerError, match=r"manifest\.json cannot be read"):
        newest_checkpoint(tmp_path)
    with pytest.raises(TrainerError, match=r"manifest\.json cannot be read"):
        checkpoint_load(folder)


def test_no_file_of_a_checkpoint_is_pickle(tmp_path: Path) -> None:
    assert {path.suffix for path in save(tmp_path, 1).iterdir()} == {".safetensors", ".json"}


def step_once(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    weight.grad = torch.linspace(-1, 1, weight.numel()).view_as(weight)
    optimizer.step()


def test_a_restored_optimizer_continues_bit_for_bit(tmp_path: Path) -> None:
    def fresh(values: torch.Tensor) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(values.clone())
        groups = [Group("network", [weight], 0.1)]
        return weight, optimizer_of("adamw", groups, betas=(0.9, 0.99), weight_decay=0.1, epsilon=1e-8)

    weight, optimizer = fresh(torch.ones(5))
    step_once(weight, optimizer)
    state = optimizer_state(optimizer)
    checkpoint_save(tmp_path, step=1, tensors={"optimizer": state.tensors}, state={"o": state.values}, keep=1)
    loaded = checkpoint_load(tmp_path / "step-00000001")
    twin, restored = fresh(weight.detach())
    optimizer_load_state(restored, state._replace(tensors=loaded.tensors["optimizer"], values=loaded.state["o"]))
    step_once(weight, optimizer)
    step_once(twin, restored)
    assert torch.equal(weight, twin)


def test_restored_random_generators_continue_their_streams() -> None:
    state = rng_state()
    state = state._replace(values=json.loads(json.dumps(state.values)))
    first = (random.random(), np.random.rand(), torch.rand(3).tolist())
    rng_load_state(state)
    assert first == (random.random(), np.random.rand(), torch.rand(3).tolist())
