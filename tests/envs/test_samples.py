"""Samples of a reconstruction go with their scans, as images do."""

import torch
from torch import Tensor

from activemri.envs.scan import Scan, State
from activemri.mri import geometry
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.registry import make_reconstructor
from tests.envs.scans import Unsure, scan


def protocol() -> Scan:
    whole = Ensemble([Unsure(), make_reconstructor("zero-filled")]).eval()
    return Scan(geometry.columns((18, 20)), whole, budget=7, n_center_lines=3, metrics=("ssim",))


def samples(state: State) -> Tensor:
    found = state.view.reconstruction.samples
    assert found is not None
    return found


def test_rows_of_samples_are_selected_joined_and_put_back() -> None:
    acquisition = protocol()
    state = acquisition.start([scan(i) for i in range(3)])
    assert samples(state).shape == (3, 2, 16, 18)
    assert torch.equal(samples(state.select([2, 0])), samples(state)[[2, 0]])
    fresh = acquisition.start([scan(9)])
    kept = samples(state).clone()
    clone = state.clone()
    state.put([1], fresh)
    assert torch.equal(samples(state)[1], samples(fresh)[0])
    assert torch.equal(samples(clone), kept)
    assert torch.equal(samples(State.join([fresh, clone]))[1:], kept)


def test_samples_follow_what_is_acquired_and_are_seen() -> None:
    acquisition = protocol()
    state = acquisition.start([scan(i) for i in range(2)])
    before = samples(state).clone()
    state = acquisition.acquire(state, torch.tensor([4, 5]))
    assert not torch.equal(samples(state), before)
    assert state.view.reconstruction.samples is samples(state)


def test_a_method_that_draws_no_samples_has_none_to_carry() -> None:
    acquisition = Scan(geometry.columns((16, 18)), Unsure(), budget=3, metrics=("ssim",))
    assert acquisition.start([scan(0)]).view.reconstruction.samples is None
