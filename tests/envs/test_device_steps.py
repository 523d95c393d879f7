"""Steps on a device: the same as on the CPU, and nothing in them waits for it."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from activemri.envs import line_features, observation
from activemri.envs.observation import OBSERVATIONS, Frame
from activemri.envs.scan import IDLE, STOP, WASTE, Scan, State
from activemri.envs.scanner import MeasurementLog
from activemri.metrics.reference import Reference, _plain_scores, to_uint8
from activemri.mri.geometry import Cartesian, Geometry, Transform
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import grouped, scan

#: What a device must finish its work for: values and sizes that the host asks for.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

#: Functions of a zero-filled step, and observations of it, on a device.
_STEP: list[Callable[..., Any]] = [
    Scan._refused,
    Scan._readings,
    Scan._after,
    Scan._update,
    MeasurementLog.take,
    Geometry.readouts,
    Geometry.legal,
    Geometry.by_action,
    Transform.increment_of,
    Cartesian._increment,
    Reference._measure_with_torch,
    _plain_scores,
    Reference._named,
    to_uint8,
    *(type(one).__call__ for one in OBSERVATIONS.values()),
]


class Waits(TorchDispatchMode):
    """Notes every operation that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in _WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def on_device(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> Scan:
    """The scan as it runs on a device that is not the CPU."""
    monkeypatch.setitem(scan.__dict__, "_waits", False)
    monkeypatch.setattr(Reference, "is_compiled", lambda self, image: False)
    monkeypatch.setattr(Cartesian, "increment_of", Transform.increment_of)
    monkeypatch.setattr(observation, "readout_features", line_features._line_features)
    return scan


def protocol(geometry: str, per_action: int) -> Scan:
    return Scan(grouped(geometry, (18, 20), per_action), ZeroFilled(), budget=9, n_center_lines=3)


def legal(state: State, rng: np.random.Generator) -> Tensor:
    return torch.tensor([rng.choice(np.flatnonzero(row)) for row in state.view.legal.numpy()])


@pytest.mark.parametrize(("geometry", "per_action"), [("columns", 1), ("rows", 2), ("tiles", 1)])
@pytest.mark.parametrize("n_coils", [1, 3])
def test_a_step_on_a_device_is_that_on_the_cpu_and_does_not_wait(
    geometry: str, per_action: int, n_coils: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, acquisition = np.random.default_rng(0), protocol(geometry, per_action)
    slices = [scan(i, padding=2, n_coils=n_coils, maps=n_coils > 1) for i in range(3)]
    start = acquisition.start(slices)
    expected, plan = [start.clone()], []
    for extra in (IDLE, WASTE, STOP):
        actions = legal(expected[-1], rng)
        actions[2] = extra
        plan.append(actions)
        expected.append(acquisition.acquire(expected[-1].clone(), actions))
    frame = Frame(acquisition.geometry.shape, (16, 18), n_coils, acquisition.geometry.n_readouts)
    names = [name for name in OBSERVATIONS if name != "lines" or geometry != "tiles"]
    state = start
    with monkeypatch.context() as changed:
        on_device(acquisition, changed)
        for actions, wanted in zip(plan, expected[1:], strict=True):
            with Waits() as waits:
                state = acquisition.acquire(state, actions)
                seen = [OBSERVATIONS[name](state.view, frame) for name in names]
            assert not waits.found
            assert len(seen) == len(names)
            for part in ("legal", "budget", "mask"):
                assert torch.equal(getattr(state.view, part), getattr(wanted.view, part)), part
            for part in ("samples", "n_measured", "last_measured"):
                same = torch.equal(getattr(state.view.log, part), getattr(wanted.view.log, part))
                assert same, part
            assert torch.equal(state.stopped, wanted.stopped)
            for name, values in wanted.scores.items():
                assert torch.allclose(state.scores[name], values, rtol=1e-5, atol=1e-6), name
            assert (state.view.pixels.int() - wanted.view.pixels.int()).abs().max() <= 1


def test_an_illegal_action_acquires_nothing_where_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acquisition = on_device(protocol("columns", 1), monkeypatch)
    state = acquisition.start([scan(0)])
    action = int(state.view.legal[0].nonzero()[0])
    state = acquisition.acquire(state, torch.tensor([action]))
    left, scores = state.view.budget.clone(), state.scores["ssim"].clone()
    again = acquisition.acquire(state, torch.tensor([action]))
    assert torch.equal(again.view.budget, left)
    assert torch.equal(again.scores["ssim"], scores)
    with pytest.raises(ValueError, match="was acquired already"):
        acquisition.check_actions(again, torch.tensor([action]))


def test_waiting_is_noticed() -> None:
    values = torch.arange(3)
    for ask in (
        lambda: bool(values.any()),
        lambda: values[1].item(),
        lambda: values[values > 1],
        lambda: values.nonzero(),
    ):
        with Waits() as waits:
            ask()
        assert waits.found


@pytest.mark.parametrize("function", _STEP, ids=lambda function: function.__qualname__)
def test_no_line_of_a_step_asks_for_a_value(function: Callable[..., Any]) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert name not in ("item", "tolist", "bool", "numpy", "cpu", "nonzero"), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_step_on_a_gpu_does_not_wait() -> None:
    acquisition = Scan(
        grouped("columns", (18, 20), 1), ZeroFilled(), budget=9, n_center_lines=3, device="cuda"
    )
    state = acquisition.start([scan(i) for i in range(3)])
    frame = Frame(acquisition.geometry.shape, (16, 18), 1, acquisition.geometry.n_readouts)
    actions = state.view.legal.byte().argmax(dim=1)
    state = acquisition.acquire(state, actions)  # whatever is made once
    actions = state.view.legal.byte().argmax(dim=1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        state = acquisition.acquire(state, actions)
        OBSERVATIONS["image"](state.view, frame)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(state.scores["ssim"].isfinite().all())


def test_recorded_steps_are_those_that_are_taken_one_by_one() -> None:
    acquisition, rng = protocol("columns", 1), np.random.default_rng(1)
    start = acquisition.start([scan(i) for i in range(3)])
    step, state = acquisition.recorded(start.clone()), start
    for _ in range(3):
        actions = legal(state, rng)
        state, same = acquisition.acquire(state, actions), step(actions)
        assert torch.equal(same.view.mask, state.view.mask)
        assert torch.equal(same.scores["ssim"], state.scores["ssim"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_recorded_graph_steps_as_the_cpu_does() -> None:
    rng = np.random.default_rng(1)
    slices = [scan(i) for i in range(3)]
    cpu = protocol("columns", 1)
    cuda = Scan(
        grouped("columns", (18, 20), 1), ZeroFilled(), budget=9, n_center_lines=3, device="cuda"
    )
    state, step = cpu.start(slices), cuda.recorded(cuda.start(slices))
    for _ in range(4):
        actions = legal(state, rng)
        state, same = cpu.acquire(state, actions), step(actions.cuda())
        assert torch.equal(same.view.mask.cpu(), state.view.mask)
        assert torch.equal(same.view.legal.cpu(), state.view.legal)
        assert torch.allclose(same.scores["ssim"].cpu(), state.scores["ssim"], atol=1e-5)


def test_scores_on_a_device_are_one_graph_for_the_compiler() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(2, 12, 14, generator=generator)
    image = torch.rand(2, 12, 14, 2, generator=generator)
    reference = Reference.of(targets, torch.ones(2))
    given: list[Any] = [image, *map(torch.from_numpy, reference.arrays), None, None]
    whole = torch.compile(_plain_scores, dynamic=True, fullgraph=True, backend="eager")
    assert torch.equal(whole(*given), _plain_scores(*given))
