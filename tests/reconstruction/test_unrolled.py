"""MoDL, VarNet and KIKI-net: what they are without training, and where their gradients go."""

from typing import Any

import pytest
import torch
from torch import Tensor

from activemri.mri.solvers import conjugate_gradient
from activemri.reconstruction.kiki import KIKINet, compand, expand
from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from activemri.reconstruction.varnet import AdaptiveVarNet, VarNet
from tests.reconstruction.scans import nmse, undersampled

SMALL: dict[type[Reconstructor], dict[str, Any]] = {
    MoDL: {"channels": 4, "layers": 3, "iterations": 2},
    VarNet: {"channels": 2, "pools": 1, "cascades": 2},
    AdaptiveVarNet: {"channels": 2, "pools": 1, "cascades": 2},
    KIKINet: {"channels": 4, "layers": 3, "turns": 1},
}


def small(kind: type[Reconstructor], seed: int = 0) -> Reconstructor:
    torch.manual_seed(seed)
    return kind(**SMALL[kind])


def symmetric(n: int) -> Tensor:
    """A Hermitian, non-negative matrix for each of two systems."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(2, n, n - 2, dtype=torch.complex128, generator=generator)
    return root @ root.mH


def test_the_gradients_of_a_solution_are_those_of_the_inverse_matrix() -> None:
    matrix = symmetric(5)
    generator = torch.Generator().manual_seed(2)
    right = torch.randn(2, 5, dtype=torch.complex128, generator=generator).requires_grad_()
    shift = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def by_steps(right: Tensor, shift: Tensor) -> Tensor:
        return conjugate_gradient(
            lambda x: (matrix @ x[..., None])[..., 0] + shift * x,
            right,
            max_steps=50,
            tolerance=1e-14,
        )

    def by_inverse(right: Tensor, shift: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.inv(matrix + shift * torch.eye(5))
        result: Tensor = (inverse @ right[..., None])[..., 0]
        return result

    torch.testing.assert_close(by_steps(right, shift), by_inverse(right, shift))
    weights = torch.randn(2, 5, dtype=torch.complex128, generator=generator)
    for solve in (by_steps, by_inverse):
        loss = torch.sum((weights * solve(right, shift)).abs().square())
        found = torch.autograd.grad(loss, (right, shift))
        if solve is by_steps:
            ours = found
    for mine, theirs in zip(ours, found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_untrained_modl_only_solves_least_squares() -> None:
    measurement, image = undersampled(12, 18, n_coils=6)
    network = MoDL(4, layers=2, iterations=30, cg_steps=30).eval()
    operator = measurement.operator
    expected = conjugate_gradient(operator.gram, measurement.zero_filled, max_steps=100)
    with torch.no_grad():
        found = network(measurement).image
    assert nmse(found, image) < 0.1 * nmse(measurement.zero_filled, image)
    assert nmse(found, expected) < 0.1 * nmse(measurement.zero_filled, expected)


@pytest.mark.parametrize("kind", [VarNet, AdaptiveVarNet, KIKINet])
@torch.no_grad()
def test_others_untrained_give_the_zero_filled_image(kind: type[Reconstructor]) -> None:
    measurement, _ = undersampled(12, 18)
    found = small(kind).eval()(measurement).image
    torch.testing.assert_close(found, measurement.zero_filled, atol=1e-4, rtol=1e-4)


def error(network: Reconstructor, measurement: Measurement, image: Tensor) -> Tensor:
    if isinstance(network, KIKINet):
        return network.training_loss(measurement, image).mean()
    return (network(measurement).image - image).abs().square().mean()


@pytest.mark.parametrize(
    ("kind", "n_coils"), [(MoDL, 1), (MoDL, 3), (VarNet, 1), (AdaptiveVarNet, 3), (KIKINet, 3)]
)
def test_every_weight_learns_and_training_brings_the_image_closer(
    kind: type[Reconstructor], n_coils: int
) -> None:
    measurement, image = undersampled(16, 20, n_coils=n_coils)
    network = small(kind).train()
    before = error(network, measurement, image).item()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        error(network, measurement, image).backward()
        optimizer.step()
    silent = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not bool(weight.grad.abs().max() > 0)
    ]
    # VarNet's first step starts from the measured samples: there is no misfit to weigh.
    assert silent == (["blocks.0.dc_weight"] if kind is VarNet else [])
    assert error(network, measurement, image).item() < 0.9 * before


@torch.no_grad()
def test_training_in_whole_batches_computes_what_evaluation_does_one_by_one() -> None:
    measurement, _ = undersampled(12, 18, n_coils=2, batch=3)
    for kind in SMALL:
        network = small(kind)
        for weight in network.parameters():
            weight.add_(0.05)
        alone = network.eval()(measurement).image
        torch.testing.assert_close(network.train()(measurement).image, alone, atol=1e-3, rtol=1e-3)


def test_the_networks_of_kiki_learn_apart() -> None:
    """The loss of a later network says nothing about an earlier one."""
    measurement, image = undersampled(12, 18)
    network = KIKINet(4, layers=2, turns=1)
    last = network._stages(measurement, apart=True)[-1]
    (last - image).abs().square().mean().backward()
    first, second = (list(part.parameters()) for part in network.networks)
    assert all(p.grad is None for p in first)
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in second)


def test_companding_is_undone_and_draws_samples_together() -> None:
    kspace = torch.tensor([0, 1e-4j, -0.1, 5.0, 300 + 400j])
    companded = compand(kspace)
    torch.testing.assert_close(expand(companded), kspace)
    ratio = companded.abs()[4] / companded.abs()[3]
    assert 1 < ratio < kspace.abs()[4] / kspace.abs()[3]


def test_gradients_at_silent_samples_are_finite() -> None:
    kspace = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    expand(compand(kspace)).abs().square().sum().backward()
    assert kspace.grad is not None and bool(torch.isfinite(torch.view_as_real(kspace.grad)).all())


@pytest.mark.parametrize("kind", SMALL)
def test_sizes_of_nothing_are_refused(kind: type[Reconstructor]) -> None:
    for name in SMALL[kind]:
        with pytest.raises(ValueError, match=f"{name}=0"):
            kind(**{**SMALL[kind], name: 0})


@torch.no_grad()
def test_hard_data_consistency_at_the_end_keeps_what_was_measured() -> None:
    measurement, _ = undersampled(12, 18)
    for dc_mode in ("first", "simul", "last"):
        network = AdaptiveVarNet(2, pools=1, cascades=2, hard_dc=True, dc_mode=dc_mode).eval()
        for weight in network.parameters():
            weight.add_(0.05)
        found = measurement.operator.forward(network(measurement).image)
        kept = torch.allclose(found, measurement.samples, atol=1e-4)
        assert kept == (dc_mode == "last")


def test_an_unknown_place_of_data_consistency_is_named() -> None:
    with pytest.raises(ValueError, match=r"dc_mode.*between"):
        AdaptiveVarNet(dc_mode="between")  # type: ignore[arg-type]
