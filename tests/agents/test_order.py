"""Files of orders: written, read, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from activemri.agents.order import Order
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


@pytest.fixture
def order() -> Order:
    return Order(
        kind="lbcs",
        actions=tuple(reversed(range(13))),
        n_learned=5,
        geometry="columns",
        lines_per_action=1,
        shape=(9, 13),
        metric="ssim",
        reconstructor="ZeroFilled",
        data="phantom",
        n_scans=8,
    )


def test_a_file_gives_the_order_back(order: Order, tmp_path: Path) -> None:
    path = order.save(tmp_path / "new" / "knee.v2")
    assert path == tmp_path / "new" / "knee.v2.json"
    assert Order.load(path) == order
    assert [file.name for file in path.parent.iterdir()] == ["knee.v2.json"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none is at .*nothing\.json"):
        Order.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no order of actions"),
        ("[1, 2]", "holds no order of actions"),
        ('{"actions": [0, 1]}', "holds no order of actions"),
        ('{"format": "activemri-order"}', "missing or unknown entries: actions"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "order.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Order.load(path)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "every action from 0 on at least once; got 0"),
        ([0, 0, 2], "every action from 0 on at least once; got 3 actions, 2 different ones"),
        (["a"], "actions: expected"),
        ([1.0, 0.0], "actions: expected"),
        (5, "actions: expected"),
    ],
)
def test_a_tampered_order_is_refused(
    order: Order, tmp_path: Path, actions: object, message: str
) -> None:
    path = order.save(tmp_path / "order")
    path.write_text(json.dumps({**json.loads(path.read_text()), "actions": actions}))
    with pytest.raises(ValueError, match=message):
        Order.load(path)


@pytest.mark.parametrize(
    ("geometry", "frame", "lines", "message"),
    [
        ("columns", (9, 12), 1, "13 actions .* the scans have 12 actions"),
        ("rows", (13, 9), 1, "geometry 'columns' .* geometry 'rows'"),
        ("columns", (9, 26), 2, "with 1 lines each, .* with 2 lines each"),
    ],
)
def test_an_order_for_another_geometry_is_refused(
    order: Order,
    make_scan: MakeScan,
    make_protocol: MakeProtocol,
    geometry: str,
    frame: tuple[int, int],
    lines: int,
    message: str,
) -> None:
    protocol = make_protocol(geometry, frame, lines_per_action=lines)
    with pytest.raises(ValueError, match=message):
        rollout(protocol, order, [make_scan(0, frame)])


def test_the_height_of_the_frame_does_not_matter_to_columns(
    order: Order, make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    other = replace(order, shape=(20, 13))
    episodes = rollout(make_protocol(), other, [make_scan(0)])
    assert episodes.actions[0].tolist() == [12, 11, 10, 9, 8]
