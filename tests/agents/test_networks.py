"""Networks of actions: what they see changes their scores, and settings make them again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from activemri.agents.networks import (
    NETWORKS,
    ActionNetwork,
    EvaluatorNetwork,
    FactorNetwork,
    ImageNetwork,
    LearnedPolicy,
    LineNetwork,
    ScheduleNetwork,
    Sees,
    StartNetwork,
    VarNetNetwork,
    load_policy,
    make_network,
)
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.devices import seeded
from activemri.envs.line_features import N_FEATURES, NAMES, mirror_of
from activemri.envs.observation import Frame
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import IDEAL, may_reject
from activemri.mri.geometry import GEOMETRIES, make_geometry
from tests.envs.scanners import ARTEFACTS, SHAPE, scan_with, scans

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]
FRAME = Frame((9, 13), (9, 13), 1, 13)
COLUMNS = make_geometry("columns", (9, 13))
KINDS: dict[str, Callable[..., ActionNetwork]] = {
    "lines": lambda **o: LineNetwork(N_FEATURES, 13, channels=6, blocks=2, **o),
    "image": lambda **o: ImageNetwork((1, 9, 13), 13, channels=4, blocks=1, **o),
    "schedule": lambda **o: ScheduleNetwork(13, 4, hidden=5, **o),
    "evaluator": lambda **o: EvaluatorNetwork(13, channels=2, layers=2, **o),
    "varnet": lambda **o: VarNetNetwork((9, 13), channels=2, pools=2, hidden=8, **o),
    "factor": lambda: with_loadings(FactorNetwork.of(COLUMNS, 3)),
    "start": lambda: two_orders(),
}


def with_loadings(made: FactorNetwork) -> FactorNetwork:
    torch.nn.init.normal_(made.loadings)
    return made


def two_orders() -> StartNetwork:
    """The centre first where the first feature is above .5, else the edge."""
    weight, outwards = torch.zeros(2, 256, dtype=torch.float64), COLUMNS.frequency.argsort()
    weight[0, 0] = 1.0
    bias = torch.tensor([0.0, 0.5], dtype=torch.float64)
    return StartNetwork.of(COLUMNS, [outwards.tolist(), outwards.flip(0).tolist()], weight, bias)


def network(kind: str, **options: Any) -> Any:
    return seeded(lambda: KINDS[kind](**options), 1).eval()


def seen(kind: str, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(batch, N_FEATURES, 13, generator=generator)
    lines[:, NAMES.index("acquired")] = (torch.arange(13) < 4).float()
    lines[:, NAMES.index("measurable")] = 1.0
    grey = torch.randint(0, 256, (batch, 1, 9, 13), generator=generator, dtype=torch.uint8)
    image = grey if kind == "image" else torch.randn(batch, 2, 9, 13, generator=generator)
    return {
        "lines": lines,
        "image": image,
        "mask": torch.randint(0, 2, (batch, 13), generator=generator, dtype=torch.int8),
        "budget": torch.tensor([0.75, 0.25])[:batch, None],
        "energy": torch.randn(batch, 13, generator=generator, dtype=torch.float64),
        "acquired": (torch.arange(13) < 4).double().expand(batch, 13),
        "left": torch.full((batch, 13), 0.25, dtype=torch.float64),
        "frequency": (torch.arange(13) - 6).abs().double().expand(batch, 13),
        "start": torch.tensor([1.0, 0.0], dtype=torch.float64)[:batch, None].expand(batch, 256),
    }


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("lines", {"lines", "budget"}),
        ("image", {"image", "mask", "budget"}),
        ("schedule", {"budget"}),
        ("evaluator", {"image", "mask"}),
        ("varnet", {"image"}),
        ("factor", {"energy", "acquired", "left"}),  # equals apart, frequencies change nothing
        ("start", {"start"}),
    ],
)
def test_scores_follow_from_what_a_network_sees_of_each_scan(kind: str, parts: set[str]) -> None:
    assert KINDS.keys() == NETWORKS.keys()
    made, one = network(kind), seen(kind)
    scores = made(one)
    assert scores.shape == (2, 13) and made.n_actions == 13
    torch.testing.assert_close(made({k: v[1:] for k, v in one.items()}), scores[1:])
    for name, values in one.items():
        other = {**one, name: 255 - values if values.dtype == torch.uint8 else 1 - values}
        assert torch.allclose(made(other), scores) == (name not in parts), name


@pytest.mark.parametrize("kind", KINDS)
def test_settings_make_the_same_network(kind: str) -> None:
    plain = kind in ("schedule", "factor", "start")
    options: dict[str, Any] = {} if plain else {"groups": [[0, 1, 2], [3, 4, 11]]}
    if kind in ("lines", "image", "schedule"):
        options["stops"] = True
    made = network(kind, **options)
    again = NETWORKS[kind](**made.settings)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again.eval()(seen(kind)), made(seen(kind)))
    assert made(seen(kind)).shape == (2, made.n_actions + made.stops)


@pytest.mark.parametrize("kind", ["lines", "image", "evaluator", "varnet"])
def test_an_actions_score_is_the_mean_of_its_lines(kind: str) -> None:
    groups = [[0, 1], [2, 3], [4, 4]]
    expected = network(kind)(seen(kind))[:, torch.tensor(groups)].mean(dim=-1)
    torch.testing.assert_close(network(kind, groups=groups)(seen(kind)), expected)


@pytest.mark.parametrize("kind", ["lines", "image"])
def test_stop_is_compared_with_the_best_new_line(kind: str) -> None:
    made, one = network(kind, stops=True), seen(kind)
    one["mask"][:] = (torch.arange(13) < 4).to(torch.int8)
    one["mask"][0] = 1
    one["lines"][0, NAMES.index("acquired")] = 1
    with torch.no_grad():
        made.stop.weight.zero_()
        made.stop.bias.fill_(0.25)
    scores = made(one)
    assert scores[0, -1] == 0.25  # no line is left
    torch.testing.assert_close(scores[1, -1], scores[1, 4:13].amax() + 0.25)


@pytest.mark.parametrize("groups", [None, [[2 * i, 2 * i + 1] for i in range(6)]])
@pytest.mark.parametrize("kind", ["lines", "image"])
def test_pointing_outwards_is_low_frequency_first_among_new_lines(
    kind: str, groups: list[list[int]] | None
) -> None:
    made, one = network(kind, groups=groups), seen(kind, batch=1)
    made.point_outwards(10.0)
    acquired, distance = torch.zeros(13), (torch.arange(13) - 6).abs() / 6
    acquired[5:8] = 1
    one["mask"][0] = acquired.to(torch.int8)
    one["lines"][0, NAMES.index("acquired")] = acquired
    one["lines"][0, NAMES.index("distance")] = distance
    expected = -10 * (distance + acquired)
    if groups is not None:
        expected = expected[torch.tensor(groups)].mean(dim=1)
    torch.testing.assert_close(made(one)[0], expected)


def test_a_line_sees_its_mirror_image() -> None:
    one = seen("lines")
    changed = {**one, "lines": one["lines"].clone()}
    far = int(mirror_of(13)[1])
    changed["lines"][:, NAMES.index("energy"), far] += 5
    plain = seeded(lambda: LineNetwork(N_FEATURES, 13, channels=6, blocks=0), 0)
    difference = (plain(changed) - plain(one)).abs()[0]
    assert difference.nonzero().squeeze(1).tolist() == sorted([1, far])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", ["ideal", *ARTEFACTS])
def test_a_network_that_sees_the_mask_alone_takes_one_order_unless_masks_differ(
    geometry: str, kind: str
) -> None:
    scan = scan_with(ARTEFACTS.get(kind, IDEAL), geometry=geometry)
    rejects = may_reject(scan.scanner)  # the mask then differs between scans
    frame = Frame(SHAPE, SHAPE, 1, scan.geometry.n_readouts, scan.scanner.repeats, rejects)
    for sees in get_args(Sees):
        made = make_network("lines", scan.geometry, frame, sees=sees, channels=6, seed=1)
        policy, scores = LearnedPolicy(made, "mine", frame), list[Tensor]()

        def keep(
            step: int, state: State, policy: Any = policy, scores: list[Tensor] = scores
        ) -> None:
            scores.append(policy.scores(state.view))

        taken = rollout(scan, policy, scans(3), on_step=keep).actions
        alike = all(torch.allclose(each, each[:1], atol=1e-6) for each in scores)
        assert alike == policy.traits.is_order == (sees == "mask" and not rejects)
        assert not alike or bool((taken == taken[0]).all())


def test_a_checkpoint_of_before_sees_all() -> None:
    made = network("lines")
    assert made.settings.pop("sees") == "all"
    again = LineNetwork(**made.settings).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(seen("lines")), made(seen("lines")))


def test_images_of_bytes_are_those_from_0_to_1_and_repeats_are_seen() -> None:
    one = seen("image")
    as_numbers = {**one, "image": one["image"].float() / 255}
    torch.testing.assert_close(network("image")(as_numbers), network("image")(one))
    both, once = network("image", repeats=True), {**one, "repeats": torch.zeros(2, 2, 13)}
    assert not torch.allclose(both({**once, "repeats": torch.ones(2, 2, 13)}), both(once))


@pytest.mark.parametrize("kind", ["evaluator", "varnet"])
def test_rows_are_scored_as_the_columns_of_the_turned_image(kind: str) -> None:
    one = seen(kind)
    turned = {**one, "image": one["image"].transpose(-2, -1)}
    shape: dict[str, Any] = {"width": 13, "channels": 2, "layers": 2}
    if kind == "varnet":
        shape = {"shape": (13, 9), "channels": 2, "pools": 2, "hidden": 8}
    rows = NETWORKS[kind](**shape, along_height=True).eval()
    rows.load_state_dict(network(kind).state_dict())
    torch.testing.assert_close(rows(turned), network(kind)(one))


def test_the_evaluator_scores_the_image_and_its_mask() -> None:
    made, one = network("evaluator"), seen("evaluator")
    image = torch.complex(one["image"][:, 0], one["image"][:, 1])
    torch.testing.assert_close(made(one), made.evaluator(image, one["mask"].bool()))
    for width, layers in ((368, 4), (16, 4), (15, 3), (4, 2)):
        columns = make_geometry("columns", (8, width))
        assert make_network("evaluator", columns, FRAME, channels=1).settings["layers"] == layers


def test_a_schedule_counts_lines_for_any_budget() -> None:
    for budget in (3, 7, 24, 98):
        made = ScheduleNetwork(2, budget)
        first = torch.nn.Linear(budget + 1, 1, bias=False)
        first.weight.data = torch.arange(budget + 1.0)[None]
        made.network = torch.nn.Sequential(first)
        left = (torch.arange(budget, -1, -1) / budget).float()[:, None]
        assert made({"budget": left}).squeeze(1).tolist() == list(range(budget + 1))


@pytest.mark.parametrize("kind", ["image", "schedule"])
def test_a_policy_is_saved_and_acts_as_before(
    kind: str, make_scan: MakeScan, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    policy = LearnedPolicy(network(kind), kind, FRAME)
    loaded = load_policy(policy.save(tmp_path / "best", info={}))
    scans = [make_scan(seed) for seed in range(3)]
    mine, theirs = (rollout(make_protocol(), one, scans).actions for one in (policy, loaded))
    assert torch.equal(mine, theirs)
    if kind == "schedule":  # one order for all scans
        assert mine.unique(dim=0).shape[0] == 1


def test_networks_that_do_not_fit_are_refused() -> None:
    columns = make_geometry("columns", (9, 13))
    with pytest.raises(ValueError, match="network rnn: expected one of lines, varnet"):
        make_network("rnn", columns, FRAME)
    with pytest.raises(ValueError, match="scores whole lines"):
        make_network("varnet", make_geometry("points", (9, 13)), FRAME)
    with pytest.raises(ValueError, match="expected one of lines, image, uncertainty"):
        make_network("image", columns, FRAME, observation="kspace")
