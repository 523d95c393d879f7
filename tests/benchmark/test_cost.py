"""What a benchmark says beforehand that it will cost, and the order of its work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from activemri.agents.rollout import prepare_starts
from activemri.benchmark import plan as planning
from activemri.benchmark import run
from activemri.benchmark.cost import Cost, Costs, announcement
from activemri.benchmark.plan import BenchmarkSettings, Plan, Shard
from activemri.benchmark.run import benchmark, run_benchmark
from activemri.data.slices import Slice
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan, State
from activemri.options import RunOptions
from activemri.reconstruction.unet import UNet

PROTOCOL = ScanProtocol(split="test", matrix_size=24, budget=6, n_center_lines=4)


def settings(out: Path, *, protocol: ScanProtocol = PROTOCOL, **changes: Any) -> BenchmarkSettings:
    options: dict[str, Any] = {"max_slices": 2, "n_fit_scans": 2, "max_fit_slices": 3}
    options |= {"policies": ("random",)}
    return BenchmarkSettings(protocol=protocol, run=RunOptions(out=out), **(options | changes))


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(channels=2, pools=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Scans started, steps and trials, counted where they are asked for."""
    found: Counter[str] = Counter()
    start, acquire, preview, masks = Scan.start, Scan.acquire, Scan.preview, Scan.preview_masks

    def counted_start(self: Scan, slices: Any, **more: Any) -> State:
        found["starts"] += len(slices)
        return start(self, slices, **more)

    def counted_acquire(self: Scan, state: State, actions: Tensor) -> State:
        found["steps"] += len(state)
        return acquire(self, state, actions)

    def counted_preview(self: Scan, state: State, actions: Tensor, *more: Any) -> Any:
        found["trials"] += actions.numel()
        return preview(self, state, actions, *more)

    def counted_masks(self: Scan, state: State, given: Tensor, *more: Any) -> Any:
        found["trials"] += given.shape[0] * given.shape[1]
        return masks(self, state, given, *more)

    monkeypatch.setattr(Scan, "start", counted_start)
    monkeypatch.setattr(Scan, "acquire", counted_acquire)
    monkeypatch.setattr(Scan, "preview", counted_preview)
    monkeypatch.setattr(Scan, "preview_masks", counted_masks)
    return found


@pytest.mark.parametrize(
    "policy", ["random", "lbcs", "oracle", "screened-oracle", "exchange-oracle"]
)
@pytest.mark.parametrize(
    ("reconstructor", "lines_per_action"),
    [("zero-filled", 2), (network(), 1)],
    ids=["zero-filled", "unet"],
)
def test_reconstructions_are_those_that_are_asked_for_within_a_factor_of_two(
    tmp_path: Path, asked: Counter[str], policy: str, reconstructor: Any, lines_per_action: int
) -> None:
    given = settings(
        tmp_path,
        protocol=replace(PROTOCOL, budget=8, lines_per_action=lines_per_action),
        reconstructors=(reconstructor,),
        policies=(policy,),
        reference=policy,
    )
    plan = Plan(given)
    costs = Costs(plan)
    shards = list(plan.shards())
    for key in {(kind, shard.reconstructor) for kind in plan.orders.values() for shard in shards}:
        asked.clear()
        run._learn_order(plan, key, lambda share: None)
        found = asked["steps"] + asked["trials"]
        assert found / 2 < costs.order(*key).reconstructions < 2 * found
    asked.clear()
    for shard in shards:
        run._play_shard(plan, shard, lambda share: None)
    if policy == "screened-oracle" and isinstance(reconstructor, UNet):
        # Trials of zero-filled images, which rank the actions, take no network.
        asked["trials"] -= sum(sum(costs._legal("UNet")) for _ in plan.scored.positions)
    expected = sum((costs.shard(shard) for shard in shards), Cost())
    found = asked["starts"] + asked["steps"] + asked["trials"]
    assert found / 2 < expected.reconstructions < 2 * found
    assert expected.seconds > 0


def test_what_an_exact_oracle_takes_with_a_network_is_said_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Costs, "_timed", lambda *_: (1.0, 1.0))

    def said(**changes: Any) -> str:
        plan = Plan(settings(tmp_path, **changes))
        return announcement(Costs(plan), plan.shards(), [])

    words = said(policies=("random", "oracle"), reconstructors=(network(),), workers=2)
    assert "oracle takes 9" in words and "screened-oracle is a bound for about a fifteenth" in words
    assert "With 2 workers: " in words
    heads = [line.split()[0] for line in words.splitlines()]
    assert heads.index("random") < heads.index("oracle") < heads.index("all")
    assert "fifteenth" not in said(policies=("random", "oracle"))
    assert "fifteenth" not in said(policies=("screened-oracle",), reconstructors=(network(),))


def test_only_what_is_still_missing_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_benchmark(settings(tmp_path))
    assert "To be done" in capsys.readouterr().err
    run_benchmark(settings(tmp_path))
    assert "To be done" not in capsys.readouterr().err
    run_benchmark(settings(tmp_path, policies=("random", "equispaced")))
    said = capsys.readouterr().err
    assert "equispaced" in said and "random" not in said


def test_cheap_policies_are_whole_before_dear_ones_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = list[str]()
    play = run._play_shard

    def noted(plan: Plan, shard: Shard, tell: run.Tell) -> None:
        played.append(shard.policy)
        play(plan, shard, tell)

    monkeypatch.setattr(run, "_play_shard", noted)
    monkeypatch.setattr(planning, "_SCANS_PER_SHARD", 1)
    run_benchmark(settings(tmp_path, policies=("oracle", "random", "equispaced")))
    assert played == ["random", "equispaced"] * 2 + ["oracle"] * 2


@pytest.mark.parametrize(
    ("changes", "n_starts"), [({}, 2), ({"scanner": "noisy"}, 4), ({"n_random_lines": 1}, 4)]
)
def test_slices_are_started_once_for_policies_and_seeds_and_play_as_if_alone(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], n_starts: int
) -> None:
    protocol = replace(PROTOCOL, **changes)
    policies = ("random", "low-frequency-first", "equispaced")
    options: dict[str, Any] = {"max_slices": 2, "n_seeds": 2}
    alone = pd.concat([benchmark(protocol, policies=[one], **options) for one in policies])
    started = list[Slice]()

    def noted(scan: Scan, slices: Sequence[Slice], *, seed: int) -> list[State]:
        started.extend(slices)
        return prepare_starts(scan, slices, seed=seed)

    monkeypatch.setattr(planning, "prepare_starts", noted)
    together = benchmark(protocol, policies=policies, **options)
    assert len(started) == n_starts
    pd.testing.assert_frame_equal(together, alone.reset_index(drop=True), check_exact=True)


def test_the_usual_policies_hold_exact_oracles_for_zero_filled_images_alone(tmp_path: Path) -> None:
    def oracles(*reconstructors: Any) -> set[str]:
        plan = Plan(settings(tmp_path, policies=(), reconstructors=reconstructors))
        assert "lbcs" in plan.policies
        return {name for name, traits in plan.traits.items() if traits.is_oracle}

    assert oracles("zero-filled") == {"oracle", "exchange-oracle"}
    assert oracles(network()) == oracles("zero-filled", network()) == {"screened-oracle"}
