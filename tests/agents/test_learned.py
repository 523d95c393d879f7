import json
from pathlib import Path

import pytest
import torch

from activemri.agents.networks import LearnedPolicy, LineNetwork, load_policy
from activemri.agents.order import Order
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.checkpoints import CheckpointError
from activemri.envs.line_features import N_FEATURES
from activemri.envs.observation import Frame
from activemri.envs.scan import STOP
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from tests.agents.conftest import MakeProtocol, MakeScan

FRAME = Frame(shape=(9, 13), target_shape=(9, 13), n_coils=1, n_lines=13)


def line_policy(*, stops: bool = False, n_lines: int = 13, seed: int = 0) -> LearnedPolicy:
    torch.manual_seed(seed)
    network = LineNetwork(N_FEATURES, n_lines, channels=4, blocks=1, stops=stops)
    frame = Frame(shape=(9, n_lines), target_shape=(9, n_lines), n_coils=1, n_lines=n_lines)
    return LearnedPolicy(network.requires_grad_(False), "mine", frame)


def test_it_takes_the_legal_action_of_highest_score(
    make_protocol: MakeProtocol, make_scan: MakeScan
) -> None:
    policy, acquisition = line_policy(), make_protocol()
    view = acquisition.start([make_scan(0), make_scan(1)]).view
    scores = policy.scores(view).masked_fill(~view.legal, -torch.inf)
    assert policy.act(view, []).tolist() == scores.argmax(dim=1).tolist()


@pytest.mark.parametrize(("urge", "stops"), [(1.0, True), (-1.0, False)])
def test_it_stops_where_the_network_wants_to(
    urge: float, stops: bool, make_protocol: MakeProtocol, make_scan: MakeScan
) -> None:
    policy, acquisition = line_policy(stops=True), make_protocol()
    assert isinstance(policy.network, LineNetwork)
    assert policy.network.stop is not None
    policy.network.stop.weight.zero_()
    policy.network.stop.bias.fill_(urge)
    view = acquisition.start([make_scan(0)]).view
    assert (policy.act(view, []).tolist() == [STOP]) is stops


def test_a_checkpoint_decides_as_the_policy_did(
    tmp_path: Path, make_protocol: MakeProtocol, make_scan: MakeScan
) -> None:
    policy = line_policy(stops=True)
    policy.save(tmp_path / "run" / "best", info={"algo": "none"})
    scans = [make_scan(0), make_scan(1)]
    expected = rollout(make_protocol(), policy, scans)
    for path in (tmp_path / "run", tmp_path / "run" / "best", tmp_path / "run" / "best.json"):
        loaded = make_policy(path)
        assert loaded.name == "run"
        assert torch.equal(rollout(make_protocol(), loaded, scans).actions, expected.actions)


def test_a_policy_for_another_number_of_actions_is_refused(
    make_protocol: MakeProtocol, make_scan: MakeScan
) -> None:
    with pytest.raises(ValueError, match="trained for 17 actions; these scans have 13"):
        rollout(make_protocol(), line_policy(n_lines=17), [make_scan(0)])


def test_a_reconstructor_is_no_policy(tmp_path: Path) -> None:
    save_reconstructor(tmp_path / "best", make_reconstructor("zero-filled"), info={})
    with pytest.raises(CheckpointError, match="holds a 'zero-filled', which is no policy"):
        load_policy(tmp_path)


def test_settings_that_make_no_policy_are_told(tmp_path: Path) -> None:
    line_policy().save(tmp_path / "best", info={})
    path = tmp_path / "best.json"
    described = json.loads(path.read_text())
    described["settings"]["network"]["n_legs"] = 4
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"do not make a policy.*n_legs"):
        load_policy(tmp_path)


def test_nothing_at_a_path_is_told() -> None:
    with pytest.raises(CheckpointError, match="found no checkpoint at nowhere/best"):
        make_policy("nowhere/best")


def test_a_folder_may_hold_an_order(tmp_path: Path) -> None:
    order = Order("loupe", tuple(range(13)), 5, "columns", 1, (9, 13), "ssim", "unet", "here", 3)
    order.save(tmp_path / "run" / "best")
    assert make_policy(tmp_path / "run").name == "run"
