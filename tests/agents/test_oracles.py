"""Plans of oracles, and who is refused by a geometry."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from activemri.agents import oracles
from activemri.agents.networks import LearnedPolicy, LineNetwork
from activemri.agents.oracles import N_SCREENED, ExchangeOracle, oracle, screened_oracle
from activemri.agents.order import order_of
from activemri.agents.policy import Policy, require_played, score_actions
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.line_features import N_FEATURES
from activemri.envs.observation import Frame
from activemri.envs.scan import Scan, Truth

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


@pytest.mark.parametrize(("geometry", "budget"), [("columns", 1), ("conjugate-columns", 2)])
def test_a_plan_of_one_action_is_that_of_the_oracle(
    make_scan: MakeScan, make_protocol: MakeProtocol, geometry: str, budget: int
) -> None:
    scan, slices = make_protocol(geometry, budget=budget), [make_scan(0), make_scan(1)]
    planned = rollout(scan, ExchangeOracle(), slices).actions
    assert torch.equal(planned[:, :1], rollout(scan, oracle(), slices).actions[:, :1])


@pytest.mark.parametrize("geometry", ["columns", "conjugate-columns", "points"])
@pytest.mark.parametrize("unsure", [False, True])
def test_where_images_are_zero_filled_the_screened_oracle_acts_as_the_oracle(
    make_scan: MakeScan, make_protocol: MakeProtocol, geometry: str, unsure: bool
) -> None:
    # An unsure reconstructor's image is zero-filled, but it does not say so: it is screened.
    scan, slices = make_protocol(geometry, unsure=unsure), [make_scan(0), make_scan(1)]
    assert scan.reconstructor.is_zero_filled != unsure
    screened = rollout(scan, screened_oracle(), slices)
    exact = rollout(scan, oracle(), slices)
    torch.testing.assert_close(screened.scores["ssim"], exact.scores["ssim"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("geometry", ["points", "radial"])
def test_the_screened_oracle_reconstructs_few_legal_candidates(
    make_scan: MakeScan,
    make_protocol: MakeProtocol,
    geometry: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = list[Tensor]()

    def counted(truth: Truth, wanted: Tensor, metric: str) -> Tensor:
        if not truth.scan.reconstructor.is_zero_filled:
            assert not bool((wanted & ~truth.state.view.legal).any())
            counts.append(wanted.sum(dim=1))
        return score_actions(truth, wanted, metric)

    monkeypatch.setattr(oracles, "score_actions", counted)
    scan = make_protocol(geometry, budget=3, unsure=True)
    rollout(scan, screened_oracle(), [make_scan(0), make_scan(1)])
    assert counts and all(int(count.max()) <= N_SCREENED for count in counts)


def test_policies_are_refused_by_geometries_that_they_cannot_play(
    make_protocol: MakeProtocol,
) -> None:
    scan = make_protocol()
    order = order_of("mine", [3], scan, metric="ssim", data="here", n_scans=1)
    network = LineNetwork(N_FEATURES, 13, channels=2, blocks=1)
    policies: list[Policy] = [
        order,
        LearnedPolicy(network, "mine", Frame((9, 13), (9, 13), 1, 13)),
        make_policy("uncertainty-greedy"),
    ]
    for policy in policies:
        require_played(policy, scan)
        for other in ("points", "radial"):
            if policy.name == "mine" or other == "radial":
                with pytest.raises(ValueError, match=f"geometry {other!r}"):
                    require_played(policy, make_protocol(other))
