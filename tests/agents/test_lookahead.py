"""Looking ahead with the truth as sample is the oracle; without, nothing hidden is seen."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.adaptive import look_ahead, uncertainty_greedy
from activemri.agents.oracles import oracle
from activemri.agents.policy import score_actions, signed
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, Truth, View
from activemri.envs.scanner import Noisy
from activemri.mri import fourier
from activemri.mri.coils import combine
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import Unsure, with_other_unacquired

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]
NO_DRAWS = [np.random.default_rng(0)] * 2


class Clairvoyant(Reconstructor):
    """Its samples are the scans themselves, in the order of the batch."""

    def __init__(self, scans: list[Slice], *, n_samples: int = 1) -> None:
        super().__init__()
        self.settings = {}
        self.scans, self.n_samples = scans, n_samples

    def forward(self, measurement: Measurement) -> Reconstruction:
        operator, kspace = measurement.operator, torch.stack([s.kspace for s in self.scans])
        whole = replace(operator, mask=torch.ones_like(operator.mask))
        truth = whole.adjoint(operator.transform.of_grid(kspace))
        samples = torch.stack([truth] * self.n_samples, dim=1)
        return Reconstruction(measurement.zero_filled, samples=samples)


class Drawing(Reconstructor):
    """Samples that lie around the zero-filled image, and differ by what the seed says."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        image, generator = measurement.zero_filled, torch.Generator().manual_seed(2)
        error = torch.randn(5, *image.shape[1:], dtype=image.dtype, generator=generator)
        error = 0.2 * image.abs().amax(dim=(1, 2))[:, None, None, None] * error
        known = torch.stack([measurement.operator.gram(one) for one in error.unbind(1)], dim=1)
        return Reconstruction(image, samples=image[:, None] + error - known)


@pytest.mark.parametrize("geometry", ["columns", "rows", "points", "conjugate-columns"])
@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("method", [ZeroFilled, Unsure])
def test_with_the_truth_as_sample_it_takes_the_actions_of_the_oracle(
    make_scan: MakeScan,
    make_protocol: MakeProtocol,
    geometry: str,
    n_coils: int,
    method: type[Reconstructor],
) -> None:
    scans = [make_scan(seed, n_coils=n_coils) for seed in (0, 1)]
    if n_coils > 1:  # the target is what the coils show together under their maps
        maps = torch.stack([_maps(scan) for scan in scans])
        coils = fourier.ifft2(torch.stack([scan.kspace for scan in scans]))
        images = combine(coils, maps).abs()
        kspace = fourier.fft2(maps * images.unsqueeze(1))
        scans = [
            replace(scan, target=image, kspace=seen)
            for scan, image, seen in zip(scans, images, kspace, strict=True)
        ]
    protocol = replace(make_protocol(geometry, budget=4), reconstructor=method())
    ahead = look_ahead(method(), Clairvoyant(scans), n_actions=10_000)
    expected = rollout(protocol, oracle("ssim"), scans).actions
    assert torch.equal(rollout(protocol, ahead, scans).actions, expected)


def _maps(scan: Slice) -> Tensor:
    assert scan.sensitivity is not None
    return scan.sensitivity


def test_values_are_mean_scores_over_samples_of_reconstructions_one_by_one(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol(lines_per_action=2)
    view = protocol.start([make_scan(0), make_scan(1)]).view
    drawn = Drawing()(view.measurement).samples
    assert drawn is not None
    best = []
    for row in range(2):
        values = {}
        for action in view.legal[row].nonzero().flatten().tolist():
            values[action] = np.mean([_nmse(view, drawn[row, s], row, action) for s in range(3)])
        best.append(min(values, key=lambda action: values[action]))
    ahead = look_ahead(ZeroFilled(), Drawing(), metric="nmse", n_actions=100, n_samples=3)
    assert ahead.act(view, NO_DRAWS).tolist() == best


def _nmse(view: View, truth: Tensor, row: int, action: int) -> float:
    """Error if a sample is the truth and an action is taken, with plain means."""
    mask = view.geometry.acquire(view.mask[row : row + 1], torch.tensor([action]))[0]
    kspace = torch.where(view.mask[row], view.measurement.kspace[row], fourier.fft2(truth))
    image = fourier.ifft2(kspace * mask).abs()[0]
    target = truth.abs()
    return float((image - target).square().sum() / target.square().sum())


def test_only_the_lines_on_which_samples_vary_most_are_tried(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = replace(make_protocol(), reconstructor=Drawing())
    view = protocol.start([make_scan(0), make_scan(1)]).view
    first = uncertainty_greedy().act(view, NO_DRAWS)
    assert torch.equal(look_ahead(ZeroFilled(), n_actions=1).act(view, NO_DRAWS), first)
    found = {
        tuple(look_ahead(ZeroFilled(), n_actions=n).act(view, NO_DRAWS).tolist()) for n in (1, 9)
    }
    assert len(found) == 2


def test_two_steps_ahead_is_the_best_pair_of_actions(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    scans = [make_scan(3), make_scan(5)]
    protocol = make_protocol(budget=2)
    state = protocol.start(scans)
    pairs = torch.full((2, 13, 13), -torch.inf, dtype=torch.float64)
    for row in range(2):
        for action in state.view.legal[row].nonzero().flatten().tolist():
            after = protocol.acquire(state.select([row]), torch.tensor([action]))
            pairs[row, action] = score_actions(Truth(protocol, after), after.view.legal, "mse")[0]
    ahead = look_ahead(ZeroFilled(), Clairvoyant(scans), metric="mse", n_actions=20, depth=2)
    taken = ahead.act(state.view, NO_DRAWS)
    best = pairs.amax(dim=2)  # of a pair, either action may come first
    torch.testing.assert_close(best.gather(1, taken[:, None])[:, 0], best.amax(dim=1))
    assert not torch.equal(
        taken, oracle("mse").act(replace(state.view, truth=Truth(protocol, state)), NO_DRAWS)
    )


def test_with_one_line_left_looking_further_changes_nothing(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = replace(make_protocol(budget=1), reconstructor=Drawing())
    view = protocol.start([make_scan(0), make_scan(1)]).view
    near, far = (look_ahead(ZeroFilled(), depth=depth).act(view, NO_DRAWS) for depth in (1, 2))
    assert torch.equal(near, far)


@pytest.mark.parametrize("hidden", [0.0, 1.0, 1e3])
def test_what_was_not_acquired_changes_no_action(
    make_scan: MakeScan, make_protocol: MakeProtocol, hidden: float
) -> None:
    protocol = replace(make_protocol(), reconstructor=Drawing())
    one = make_scan(0)
    view = protocol.start([one]).view
    other = with_other_unacquired(one, view.operator.grid_mask[0], scale=hidden)
    theirs = protocol.start([other]).view
    ahead = look_ahead(Unsure(), depth=2)
    taken = ahead.act(view, NO_DRAWS[:1])
    assert torch.equal(taken, ahead.act(theirs, NO_DRAWS[:1]))
    assert not ahead.traits.is_oracle and view.truth is None


def test_errors_are_minimised(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    scans = [make_scan(0), make_scan(1)]
    protocol = make_protocol()
    taken = look_ahead(ZeroFilled(), Clairvoyant(scans), metric="mse", n_actions=99).act(
        protocol.start(scans).view, NO_DRAWS
    )
    truth = Truth(protocol, protocol.start(scans))
    scores = signed(truth.scores_of_actions(taken[:, None], "mse"), "mse")[:, 0]
    assert torch.equal(scores, score_actions(truth, truth.state.view.legal, "mse").amax(dim=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_actions": 0}, "n_actions=0"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"depth": 0}, "depth=0"),
        ({"metric": "task_loss"}, "cannot maximise 'task_loss'"),
        ({"metric": "beauty"}, "beauty"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        look_ahead(ZeroFilled(), **settings)  # type: ignore[arg-type]


def test_where_lines_may_be_measured_again_all_are_measured_once_before(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = replace(make_protocol(budget=14), reconstructor=Unsure(), scanner=Noisy())
    for depth in (1, 2):
        actions = rollout(protocol, look_ahead(Unsure(), depth=depth), [make_scan(0)]).actions[0]
        assert len(set(actions[:11].tolist())) == 11  # two of the 13 lines come with the start
        assert len(actions) == 14
