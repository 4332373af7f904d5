"""Muon and AdamW in one optimizer."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import tiny_hybrid
import torch
from torch import nn

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train import muon
from vit_hybrid.train.muon import Muon, fast_dtype, newton_schulz
from vit_hybrid.train.parameters import muon_groups


def new_model() -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_hybrid.tiny_config()).train()


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = tiny_hybrid.IMAGE_SIZE
    return torch.randn(6, 3, size, size, generator=generator), torch.randint(3, (6,), generator=generator)


def new_optimizer(model: nn.Module, **options: str) -> Muon:
    return Muon(muon_groups(model, 0.02, 2e-3, 0.05, layer_decay=0.9), **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: Iterator[int] | range) -> list[float]:
    losses = []
    for seed in seeds:
        pixels, labels = batch(seed)
        loss = model(pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """One with singular values from 0.02 to 1, a range that gradients' momenta have."""
    generator = torch.Generator().manual_seed(seed)
    few = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, few, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(columns, few, generator=generator))[0]
    return u * torch.logspace(-1.7, 0, few) @ v.mT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 144), (96, 32), (1, 40)])
def test_updates_are_nearly_orthogonal(rows: int, columns: int, dtype: torch.dtype) -> None:
    given = matrix(rows, columns)
    result = newton_schulz(given * 1e-3, dtype)
    assert result.shape == given.shape
    assert result.dtype == dtype
    singular = torch.linalg.svdvals(result.float())
    assert singular.min() > 0.5
    assert singular.max() < 1.5
    # It changes the singular values alone: the nearest orthogonal matrix, U V^T, has the same vectors.
    u, _, vh = torch.linalg.svd(given, full_matrices=False)
    rotated = u.mT @ result.float() @ vh.mT
    off_diagonal = rotated - torch.diag(rotated.diagonal())
    assert rotated.diagonal().min() > 0.4
    assert off_diagonal.abs().max() < (1e-3 if dtype == torch.float32 else 0.2)


def test_matrices_do_not_mix_in_a_batch() -> None:
    several = torch.stack([matrix(12, 20, seed) * 10.0**seed for seed in range(4)])
    together = newton_schulz(several)
    for one, result in zip(several, together, strict=True):
        assert torch.allclose(newton_schulz(one), result, atol=1e-5)


def test_zero_gradients_give_zero_updates() -> None:
    assert torch.equal(newton_schulz(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_dtype_on_cpu_is_one_of_the_two() -> None:
    assert fast_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert fast_dtype(torch.device("meta")) == torch.float32


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_dtype_is_what_the_device_multiplies_fastest(
    is_fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_fast  # what emulates bfloat16 has it, and is not fast

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast, raising=False)
    assert [fast_dtype(torch.device(name)) for name in ("cuda", "cpu")] == [dtype, dtype]
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert fast_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 48), (48, 16)])
def test_follows_torchs_own_muon_on_matrices(rows: int, columns: int) -> None:
    ours, theirs = (nn.Parameter(matrix(rows, columns)) for _ in range(2))
    groups = [{"params": [ours], "use_muon": True}]
    first = Muon(groups, lr=0.02, momentum=0.9, weight_decay=0.1, newton_schulz_dtype="bfloat16")
    second = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1)
    start = ours.detach().clone()
    for seed in range(1, 5):
        ours.grad, theirs.grad = matrix(rows, columns, seed), matrix(rows, columns, seed)
        first.step()
        second.step()
    change, expected = ours.detach() - start, theirs.detach() - start
    assert (change - expected).norm() < 0.03 * expected.norm()


def test_what_computes_the_gradients_may_be_given() -> None:
    given, before = (nn.Parameter(matrix(6, 4)) for _ in range(2))
    optimizers = [Muon([{"params": [one], "use_muon": True}], lr=0.1) for one in (given, before)]

    def loss(parameter: nn.Parameter) -> float:
        parameter.grad = None
        found = parameter.square().sum()
        found.backward()
        return found.item()

    assert optimizers[0].step(lambda: loss(given)) == loss(before)
    assert optimizers[1].step() is None
    assert torch.equal(given, before)
    assert not torch.equal(given, matrix(6, 4))


def test_kernels_are_matrices_of_out_by_the_rest() -> None:
    weight = matrix(8, 3 * 9)
    flat, kernel = nn.Parameter(weight.clone()), nn.Parameter(weight.view(8, 3, 3, 3).clone())
    channels_last = nn.Parameter(weight.view(8, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    for parameter in (flat, kernel, channels_last):
        optimizer = Muon([{"params": [parameter], "use_muon": True}], newton_schulz_dtype="float32")
        for seed in (1, 2):
            parameter.grad = torch.empty_like(parameter).copy_(matrix(8, 27, seed).view(parameter.shape))
            optimizer.step()
    assert torch.equal(kernel.flatten(1), flat)
    assert torch.equal(channels_last.flatten(1), flat)
    assert not torch.allclose(flat, weight, atol=1e-3)


def test_tall_matrices_move_further() -> None:
    tall = nn.Parameter(torch.zeros(64, 16))
    tall.grad = matrix(64, 16)
    Muon([{"params": [tall], "use_muon": True}], lr=0.1, newton_schulz_dtype="float32").step()
    singular = torch.linalg.svdvals(tall.detach() / (0.1 * (64 / 16) ** 0.5))
    assert singular.min() > 0.5
    assert singular.max() < 1.5


def test_the_rest_gets_torchs_adamw() -> None:
    model, other = new_model(), new_model()
    settings = {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ours = Muon([{"params": list(model.parameters()), "use_muon": False}], **settings)
    theirs = torch.optim.AdamW(other.parameters(), fused=True, **settings)
    train(model, ours, range(3))
    train(other, theirs, range(3))
    for mine, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_matrices_of_one_shape_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = new_model(), new_model()
    train(model, new_optimizer(model, newton_schulz_dtype="float32"), range(2))
    monkeypatch.setattr(muon, "LARGEST_BATCH", 1)
    train(other, new_optimizer(other, newton_schulz_dtype="float32"), range(2))
    for mine, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, reference, atol=1e-5)


def test_loss_goes_down_and_runs_repeat_to_the_bit() -> None:
    model, other = new_model(), new_model()
    losses = train(model, new_optimizer(model), iter([7] * 12))
    assert losses[-1] < 0.9 * losses[0]
    assert train(other, new_optimizer(other), iter([7] * 12)) == losses
    for mine, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_a_step_may_compute_the_loss_itself() -> None:
    models = [new_model(), new_model()]
    losses = train(models[0], new_optimizer(models[0]), range(2))
    optimizer = new_optimizer(models[1])

    def loss_of(seed: int) -> float:
        pixels, labels = batch(seed)
        optimizer.zero_grad()
        loss = models[1](pixels, labels=labels).loss
        loss.backward()
        return loss.item()

    assert [optimizer.step(lambda seed=seed: loss_of(seed)) for seed in range(2)] == losses  # type: ignore[misc]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_resuming_equals_going_on() -> None:
    def parts(model: nn.Module) -> tuple[Muon, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = new_optimizer(model)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    model = new_model()
    optimizer, scheduler = parts(model)
    train(model, optimizer, range(2))
    scheduler.step()
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    train(model, optimizer, range(2, 4))

    resumed = new_model()
    again, again_scheduler = parts(resumed)
    for what, state in zip((resumed, again, again_scheduler), saved, strict=True):
        what.load_state_dict(state)
    assert [group["name"] for group in again.param_groups] == [group["name"] for group in optimizer.param_groups]
    train(resumed, again, range(2, 4))
    for mine, reference in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, reference)


def test_state_of_half_precision_is_float32_also_behind_loading() -> None:
    model = new_model().to(torch.bfloat16)
    optimizer = new_optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    assert sum(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) < len(before) // 2
    restored = new_optimizer(model)
    restored.load_state_dict(optimizer.state_dict())
    for parameter in model.parameters():
        assert parameter.dtype == torch.bfloat16
        for key, value in restored.state[parameter].items():
            assert value.dtype == torch.float32
            assert torch.equal(value, optimizer.state[parameter][key])
            assert value.data_ptr() != optimizer.state[parameter][key].data_ptr()


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(matrix(4, 6)), nn.Parameter(matrix(4, 6))
    used.grad = matrix(4, 6, 1)
    optimizer = Muon([{"params": [used, unused], "use_muon": True, "weight_decay": 0.5}])
    assert optimizer.step(lambda: 3.5) == 3.5
    assert torch.equal(unused, matrix(4, 6))
    assert not torch.equal(used, matrix(4, 6))
    assert unused not in optimizer.state
    restored = Muon([{"params": [used, unused], "use_muon": True}])
    restored.load_state_dict(optimizer.state_dict())
    assert {*restored.state} == {used}


def test_what_is_not_said_is_what_it_always_was() -> None:
    optimizer = Muon([{"params": [nn.Parameter(torch.zeros(3, 3))], "use_muon": True}])
    usual = {"lr": 0.02, "momentum": 0.95, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    assert optimizer.defaults == usual
    assert optimizer.newton_schulz_dtype == "auto"


def test_refusals() -> None:
    weight, bias = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match='has no "use_muon"'):
        Muon([{"params": [weight]}])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([{"params": [weight, bias], "use_muon": True}])
    optimizer = Muon([{"params": [weight], "use_muon": True}])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        optimizer.add_param_group({"params": [bias], "use_muon": True})
    optimizer.add_param_group({"params": [bias], "use_muon": False})
    assert [group["params"] for group in optimizer.param_groups] == [[weight], [bias]]
    with pytest.raises(ValueError, match="float64"):
        Muon([{"params": [weight], "use_muon": True}], newton_schulz_dtype="float64")
    with pytest.raises(ValueError, match=r"momentum is 1\.0"):
        Muon([{"params": [weight], "use_muon": True}], momentum=1.0)


def test_sharded_parameters() -> None:
    """`fully_shard` in a world of one process: whole matrices are gathered, and updates scattered."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain, sharded = new_model(), new_model()
    train(plain, new_optimizer(plain, newton_schulz_dtype="float32"), range(2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        train(sharded, new_optimizer(sharded, newton_schulz_dtype="float32"), range(2))
        whole = [parameter.full_tensor() for parameter in sharded.parameters()]
    finally:
        dist.destroy_process_group()
    for mine, reference in zip(whole, plain.parameters(), strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)
