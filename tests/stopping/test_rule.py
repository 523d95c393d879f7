"""Stopping while scanning equals stopping in hindsight, and changes nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.policy import Traits
from activemri.agents.registry import make_policy
from activemri.agents.rollout import PADDING, Episodes, rollout
from activemri.data.slices import SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.scan import STOP, Scan, View
from activemri.mri.geometry import make_geometry
from activemri.registration import find_protocol
from activemri.stopping import RuleError
from activemri.stopping.features import Curves, quality_curves, unit_of
from activemri.stopping.predictor import Predictor, fit_predictor, lines_predictor
from activemri.stopping.rule import (
    Stopping,
    StoppingRule,
    StopSettings,
    calibrate,
    crossfitted,
    first_steps,
    fit_rule,
    misses,
)
from tests.envs.scans import Unsure, equal_scans, mixed_scans, scan

SCANS = equal_scans(6)
POLICIES = ("random", "low-frequency-first", "oracle")


def protocol(budget: int | None = 8) -> Scan:
    return Scan(make_geometry("columns", SCANS.shape), Unsure(), budget=budget, n_center_lines=4)


def rule(predictor: Predictor, threshold: float, **changes: object) -> StoppingRule:
    made = StoppingRule(
        predictor=predictor,
        target=0.8,
        threshold=threshold,
        alpha=0.1,
        unit="subject",
        n_units=6,
        policy="random",
        reconstructor="unsure",
        data="equal",
        n_center_lines=4,
        budget=8,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def curves_of(policy: str, seed: int = 0) -> Curves:
    return quality_curves(protocol(), make_policy(policy), SCANS, seed=seed)


def fitted(curves: Curves, metric: str) -> Predictor:
    flat = {name: values.ravel() for name, values in curves.features.items()}
    scores = curves.scores[metric].ravel()
    return fit_predictor("regression", flat, scores, metric=metric, target=float(np.median(scores)))


@pytest.mark.parametrize("metric", ["ssim", "nmse"])
@pytest.mark.parametrize("name", POLICIES)
def test_stopping_online_equals_the_first_crossing_of_recorded_curves(
    name: str, metric: str
) -> None:
    curves = curves_of(name)
    predictor = fitted(curves, metric)
    predicted = predictor(curves.features)
    policy = make_policy(name)
    plain = rollout(protocol(), policy, SCANS.slices)
    stops_seen = set()
    for quantile in (0.02, 0.3, 0.5, 0.7, 0.98):
        chosen = rule(predictor, float(np.quantile(predicted, quantile)), policy=name)
        online = rollout(protocol(), Stopping(policy, chosen), SCANS.slices)
        steps = first_steps(chosen.stops(predicted))
        for row, stop in enumerate(steps.tolist()):
            stops_seen.add(stop)
            taken = [int(a) for a in online.actions[row] if a != PADDING]
            assert taken == plain.actions[row, :stop].tolist()
            lines = int(online.n_acquired[row, -1])
            assert lines == curves.n_acquired[row, stop] == int(plain.n_acquired[row, stop])
            score = float(online.scores[metric][row, -1])
            assert score == pytest.approx(float(curves.scores[metric][row, stop]), abs=1e-6)
    assert {0, 8} <= stops_seen and len(stops_seen) > 4


def test_a_fixed_budget_is_calibrated_like_every_rule() -> None:
    curves = curves_of("random")
    target = float(np.median(curves.scores["ssim"]))
    stop = StopSettings(metric="ssim", target=target, alpha=0.4)
    predictor, threshold = fit_rule(stop, {"train": curves, "val": curves}, kind="fixed-budget")
    assert predictor == lines_predictor("ssim")
    steps = first_steps(predictor(curves.features) >= threshold)
    assert len(set(curves.n_acquired[np.arange(len(curves)), steps])) == 1
    # One step less would miss too often for the six subjects.
    missed = misses(curves, "ssim", target)
    share = [(missed[:, step].sum() + 1) / 7 for step in (steps[0], steps[0] - 1)]
    assert share[0] <= 0.4 < share[1]


def test_errors_are_those_of_predictors_that_have_not_seen_the_subject() -> None:
    curves, seen = curves_of("random"), []

    def fit(of_others: Curves) -> Predictor:
        seen.append({scan.subject for scan in of_others.scans})
        return lines_predictor("ssim")

    predicted = crossfitted(fit, curves, seed=0)
    assert np.array_equal(predicted, curves.features["acquired"])
    subjects = {scan.subject for scan in curves.scans}
    left_out = [subjects - own for own in seen]
    assert sorted(name for own in left_out for name in own) == sorted(subjects)
    with pytest.raises(RuleError, match="at least 2 subjects"):
        crossfitted(fit, curves.select(np.arange(len(curves)) == 0), seed=0)


def test_scans_that_go_on_draw_what_they_would_have_drawn() -> None:
    """And the policy is not asked about those that stop."""
    asked: list[int] = []

    @dataclass(frozen=True)
    class Counting:
        name: str = "random"
        traits: ClassVar[Traits] = Traits(is_random=True)

        def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
            asked.append(len(view.mask))
            assert len(generators) == len(view.legal) == len(view.reconstruction.image)
            return make_policy("random").act(view, generators)

    curves = curves_of("random", seed=3)
    predictor = fitted(curves, "ssim")
    chosen = rule(predictor, float(np.quantile(predictor(curves.features), 0.5)))
    online = rollout(protocol(), Stopping(Counting(), chosen), SCANS.slices, seed=3)
    plain = rollout(protocol(), make_policy("random"), SCANS.slices, seed=3)
    taken = online.actions != PADDING
    assert torch.equal(online.actions[taken], plain.actions[:, : taken.shape[1]][taken])
    assert sum(asked) == int(taken.sum()) < plain.actions.numel()


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("Motion", "low-frequency-first"),
        ("Motion", "oracle"),
        ("Lesion", "imitation"),
        ("LowField", "repeat-centre"),
        ("Spikes", "re-acquire"),
    ],
)
def test_scans_of_every_scenario_go_on_alone_when_others_stop(name: str, policy: str) -> None:
    """They acquire what they acquire when none stops."""
    size = 128 if policy == "imitation" else 32
    protocol = find_protocol(f"ActiveMRI/{name}-v0")
    protocol = replace(protocol, reconstructor="zero-filled", budget=4, matrix_size=size)
    scans = protocol.dataset()
    acquisition, first = protocol.scan(scans), [scans[i] for i in (0, 40, 80)]
    plain = rollout(acquisition, make_policy(policy), first)

    asked: list[Any] = []

    def stops_the_second_after_two_actions(features: Any) -> Any:
        asked.append(features)
        return np.array([False, len(asked) > 2, False])

    chosen: Any = SimpleNamespace(
        policy=policy, predictor=stops_the_second_after_two_actions, stops=np.asarray
    )
    online = rollout(acquisition, Stopping(make_policy(policy), chosen), first)
    assert online.n_steps.tolist() == [4, 2, 4]
    for row, n_steps in enumerate(online.n_steps.tolist()):
        assert torch.equal(online.actions[row, :n_steps], plain.actions[row, :n_steps])


def stop_at_once(threshold: float = 0.0) -> StoppingRule:
    always = Predictor("uncertainty", "ssim", ("acquired",), {"x": (0.0, 1.0), "y": (0.0, 1.0)})
    return rule(always, threshold)


def test_a_rule_of_another_policy_is_refused() -> None:
    with pytest.raises(RuleError, match=r"calibrated for policy 'random'.*'equispaced'"):
        Stopping(make_policy("equispaced"), stop_at_once())


def test_an_environment_with_a_stop_action_ends_when_the_rule_says_so() -> None:
    env = ActiveMRIEnv(
        data=SCANS,
        reconstructor=Unsure(),
        n_center_lines=4,
        budget=8,
        stop_action=True,
    )
    curves = curves_of("low-frequency-first")
    predictor = fitted(curves, "ssim")
    predicted = predictor(curves.features)
    chosen = rule(predictor, float(np.median(predicted)), policy="low-frequency-first")
    policy = Stopping(make_policy("low-frequency-first"), chosen)
    for index in range(len(SCANS)):
        env.reset(options={"index": index})
        n_actions = env.episodes.n_actions
        steps, ended = 0, False
        while not ended:
            view = env.episodes.locate(0)[0].view
            action = int(policy.act(view, [np.random.default_rng(0)])[0])
            _, _, ended, _, _ = env.step(n_actions - 1 if action == STOP else action)
            steps += action != STOP
        assert steps == first_steps(chosen.stops(predicted))[index]


def test_scans_of_several_coils_and_sizes_can_stop() -> None:
    scans = mixed_scans()
    acquisition = Scan(make_geometry("columns", scans.shape), Unsure(), budget=5, n_center_lines=4)
    curves = quality_curves(acquisition, make_policy("random"), scans, batch_size=2)
    assert curves.n_acquired.shape == (len(scans), 6)
    half = rule(stop_at_once().predictor, 0.4)
    for batch in ([scans[0], scans[1]], [scans[7]]):
        episodes = rollout(acquisition, Stopping(make_policy("random"), half), batch)
        assert bool((episodes.n_steps >= 1).all())


def test_finished_scans_are_left_alone() -> None:
    episodes = rollout(
        protocol(2), Stopping(make_policy("random"), stop_at_once(np.inf)), SCANS.slices
    )
    assert episodes.n_steps.tolist() == [2] * 6
    none: Episodes = rollout(
        protocol(2), Stopping(make_policy("random"), stop_at_once()), SCANS.slices
    )
    assert none.n_steps.tolist() == [0] * 6


def test_a_policy_keeps_its_name_so_that_its_draws_stay_the_same() -> None:
    stopping = Stopping(make_policy("random"), stop_at_once())
    assert (stopping.name, stopping.traits) == ("random", Traits(is_random=True))
    order = Stopping(make_policy("equispaced"), replace(stop_at_once(), policy="equispaced"))
    assert not order.traits.is_order  # where it stops depends on the scan


@pytest.mark.parametrize("threshold", [0.87, np.inf, -np.inf])
def test_a_rule_is_read_as_it_was_saved(tmp_path: Path, threshold: float) -> None:
    curves = curves_of("random")
    for metric in ("ssim", "nmse"):
        never = np.inf if metric == "ssim" else -np.inf
        saved = rule(fitted(curves, metric), threshold if np.isfinite(threshold) else never)
        path = saved.save(tmp_path / "rule")
        assert path.name == "rule.json"
        json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
        assert StoppingRule.load(path) == saved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no stopping rule: .*expected JSON"),
        ("[]", "holds no stopping rule"),
        ('{"format": "activemri-order"}', "holds no stopping rule"),
        ('{"format": "activemri-stopping-rule", "alpha": 1}', "this is no predictor: .*head"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rule.json"
    path.write_text(content)
    with pytest.raises(RuleError, match=message):
        StoppingRule.load(path)
    with pytest.raises(FileNotFoundError, match="none is at"):
        StoppingRule.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": "high"},
        {"target": None},
        {"predictor": {"kind": "regression", "metric": "ssim", "features": [], "head": 3}},
    ],
)
def test_a_rule_with_a_value_of_another_kind_is_refused_with_its_file(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = rule(fitted(curves_of("random"), "ssim"), 0.9).save(tmp_path / "rule")
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(RuleError, match=r"rule\.json holds no stopping rule: "):
        StoppingRule.load(path)


@pytest.mark.parametrize("metric", ["ssim", "nmse"])
def test_calibration_bounds_misses_whatever_the_direction_of_the_metric(metric: str) -> None:
    curves = curves_of("random")
    target = float(np.median(curves.scores[metric][:, -2]))
    predictor = fitted(curves, metric)
    predicted = predictor(curves.features)
    missed = misses(curves, metric, target)
    better = curves.scores[metric] >= target if metric == "ssim" else None
    if better is not None:
        assert np.array_equal(missed, ~better)
    complete = replace(
        curves, scores={metric: np.where(np.arange(9) == 8, target, curves.scores[metric])}
    )
    threshold = calibrate(predictor, predicted, complete, target=target, alpha=0.4)
    steps = first_steps(rule(predictor, threshold).stops(predicted))
    share = misses(complete, metric, target)[np.arange(6), steps].mean()
    assert 6 / 7 * share + 1 / 7 <= 0.4
    assert steps.min() < 8  # it does stop


def test_units_nest() -> None:
    one = SliceList([replace(scan(0), subject="a", volume="b", index=3)]).describe(0)
    assert [unit_of(one, unit) for unit in ("subject", "volume", "slice")] == [
        ("a",),
        ("a", "b"),
        ("a", "b", 3),
    ]
    with pytest.raises(ValueError, match="unknown unit 'patient'"):
        unit_of(one, "patient")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": 1.2}, "--stop.target"),
        ({"target": -1.0, "metric": "nmse"}, "--stop.target"),
        ({"metric": "sism"}, "unknown metric 'sism'"),
        ({"alpha": 1.5}, "--stop.alpha"),
        ({"max_slices": 0}, "--stop.max-slices"),
        ({"fit_subjects": 0}, "--stop.fit-subjects"),
        ({"rules": ()}, "--stop.rules"),
        ({"fit": "val"}, "must not be fitted to the split that it is calibrated on"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    assert StopSettings().target is None  # stops none
    with pytest.raises(ValueError, match=said):
        StopSettings(**{"target": 0.9, "metric": "ssim", **changes})
