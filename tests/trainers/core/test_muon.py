"""Muon against torch's, AdamW's part against AdamW, and the routes of parameters."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, Qwen3Config, Qwen3ForCausalLM

from tests.tolerance import PRODUCT, assert_near
from trainers.core.checkpoint import optimizer_load_state, optimizer_state
from trainers.core.muon import Muon, batch_size, newton_schulz, orthogonalized, routes, routes_table

pytestmark = pytest.mark.numeric

BF16_ERROR = 0.05
"""Of an update's Frobenius norm: what fifteen products in bfloat16, which has 8 bits, may lose on any machine."""


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(20, 16)
        self.up, self.side, self.down = nn.Linear(16, 48), nn.Linear(16, 48), nn.Linear(48, 16, bias=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids)
        logits: Tensor = self.head(self.norm(hidden + self.down(torch.tanh(self.up(hidden)) * self.side(hidden))))
        return logits


def muon_of(net: nn.Module, *, decay: float = 0.1, dtype: torch.dtype = torch.float32) -> Muon:
    return Muon(routes(net), learning_rate=1e-2, betas=(0.9, 0.95), weight_decay=decay, epsilon=1e-8, dtype=dtype)


def train(net: nn.Module, *optimizers: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        ids = torch.randint(0, 20, (64,), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(net(ids), (ids + 1) % 20).backward()
        for optimizer in optimizers:
            optimizer.step()
        net.zero_grad()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrices_move_as_with_the_muon_of_torch(dtype: torch.dtype) -> None:
    """Over three steps, decay included; torch iterates in bfloat16 only."""
    ours, reference, start = Net(), Net(), Net()
    muons = [route.parameter for route in routes(reference) if route.kind == "muon"]
    others = [route.parameter for route in routes(reference) if route.kind == "adamw"]
    for net in (ours, reference):  # the gradients of both stay equal
        net.embed.requires_grad_(False)
    torchs = torch.optim.Muon(muons, lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    train(ours, muon_of(ours, dtype=dtype), steps=3)
    train(reference, torchs, torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0), steps=3)
    for name in ("up", "side", "down"):
        actual, expected, before = (getattr(net, name).weight.detach() for net in (ours, reference, start))
        error = (actual - expected).norm() / (expected - before).norm()
        assert error < BF16_ERROR, f"{name}: {error:.3f}"


def test_an_update_has_its_closed_form() -> None:
    """Two steps of one matrix in float64 by the formulas, more rows than columns."""
    layer = nn.Linear(16, 24, bias=False)
    optimizer = Muon(
        routes(layer), learning_rate=0.02, betas=(0.9, 0.95), weight_decay=0.1, epsilon=1e-8, dtype=torch.float32
    )
    expected, momentum = layer.weight.detach().double(), torch.zeros(24, 16, dtype=torch.float64)
    for step in range(2):
        gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(step))
        layer.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        x = (0.05 * gradient + 0.95 * momentum).T
        x = x / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 24**0.5 * x.T
    assert_near(layer.weight.detach(), expected.float(), PRODUCT)


def test_other_parameters_move_as_with_adamw_for_many_steps() -> None:
    ours, reference = Net(), Net()
    for net in (ours, reference):
        for layer in (net.up, net.side, net.down):
            layer.weight.requires_grad_(False)
    vectors = [route.parameter for route in routes(reference) if not route.decays]
    train(ours, muon_of(ours), steps=10)
    train(
        reference,
        torch.optim.AdamW(vectors, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True),
        torch.optim.AdamW([reference.head.weight], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True),
        steps=10,
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), reference.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_an_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    (update,) = orthogonalized([torch.randn(shape, generator=torch.Generator().manual_seed(1))], torch.float32)
    values = torch.linalg.svdvals(update)
    assert update.shape == shape and values.min() > 0.6 and values.max() < 1.3


def test_a_batch_has_the_updates_of_each_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    updates = [torch.randn(48, 16, generator=generator) for _ in range(5)]
    together = orthogonalized(updates, torch.float32)
    for update, result in zip(updates, together, strict=True):
        assert_near(result, orthogonalized([update], torch.float32)[0], PRODUCT)


def test_small_matrices_are_batched_on_a_cpu_and_large_ones_are_not() -> None:
    assert [batch_size(torch.empty(n, n)) for n in (16, 128, 512)] == [256, 4, 1]


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))
    net = Net()
    before = net.up.weight.detach().clone()
    optimizer = muon_of(net, decay=0.0)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(net.up.weight, before)


def test_decay_shrinks_matrices_alone() -> None:
    """Norms, biases and embeddings never decay."""
    net = Net()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = muon_of(net, decay=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        shrinks = name in ("up.weight", "side.weight", "down.weight", "head.weight")
        assert_near(parameter.detach(), before[name] * (1 - 1e-2 * 0.5 if shrinks else 1), PRODUCT)


def test_a_state_goes_on_to_the_same_bits() -> None:
    complete, first, second = Net(), Net(), Net()
    train(complete, muon_of(complete), steps=5)
    optimizer = muon_of(first)
    train(first, optimizer, steps=2)
    second.load_state_dict(first.state_dict())
    resumed = muon_of(second)
    optimizer_load_state(resumed, optimizer_state(optimizer))
    train(second, resumed, steps=3, first=2)
    assert all(torch.equal(a, b) for a, b in zip(complete.parameters(), second.parameters(), strict=True))


def kinds(model: nn.Module) -> dict[str, tuple[str, bool]]:
    return {route.name: (route.kind, route.decays) for route in routes(model)}


@pytest.mark.parametrize("tied", [False, True])
def test_routes_of_a_qwen3(tied: bool) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": tied}
    table = kinds(Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)))
    layer = "model.layers.0."
    assert table["model.embed_tokens.weight"] == ("adamw", False)
    assert table.get("lm_head.weight", ("adamw", True)) == ("adamw", True) and ("lm_head.weight" in table) is not tied
    assert {name for name, (kind, _) in table.items() if kind == "muon"} == {
        f"{layer}{name}.weight"
        for name in (
            *(f"self_attn.{part}_proj" for part in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }
    assert table[f"{layer}self_attn.q_norm.weight"] == table["model.norm.weight"] == ("adamw", False)


def test_routes_of_a_bert() -> None:
    config = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    table = kinds(BertForMaskedLM(config))
    assert all(
        decision == ("adamw", False) for name, decision in table.items() if "embeddings" in name or "bias" in name
    )
    assert table["cls.predictions.transform.dense.weight"] == ("muon", True)


def test_the_log_shows_which_matrix_goes_where_and_why() -> None:
    lines = [" ".join(line.split()) for line in routes_table(routes(Net())).splitlines()]
    assert lines[0] == "optimizer shape weight decay reason count first"
    assert "muon 48 x 16 decay matrix of a linear layer 2 up.weight" in lines
    assert "adamw 20 x 16 no decay embedding 1 embed.weight" in lines
    assert "adamw 20 x 16 decay head 1 head.weight" in lines
