"""A benchmark from settings to files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from activemri import checkpoints
from activemri.agents.rollout import rollout
from activemri.benchmark import run
from activemri.benchmark.plan import Plan
from activemri.benchmark.run import run_benchmark
from activemri.evaluator import Evaluator, save_evaluator
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.registry import save_reconstructor
from activemri.reconstruction.unet import UNet
from activemri.settings import BenchmarkSettings

HEURISTICS = ("random", "low-frequency-first")


def settings(out: Path, **changes: object) -> BenchmarkSettings:
    """Two policies on three small phantom scans."""
    options: dict[str, object] = {
        "policies": HEURISTICS,
        "matrix": 24,
        "budget": 4,
        "n_center_lines": 4,
        "max_slices": 3,
        "n_fit_scans": 2,
        "max_fit_slices": 2,
        "n_bootstrap": 50,
        "out": out,
    }
    options |= changes
    options.setdefault("reference", "lbcs")
    return BenchmarkSettings(**options)  # type: ignore[arg-type]


def test_it_writes_the_long_table_the_summary_and_the_report(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path, policies=(*HEURISTICS, "lbcs", "oracle", "exchange-oracle")))

    table = pd.read_parquet(tmp_path / "results.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    report = (tmp_path / "report.html").read_text()

    assert {"policy", "reconstructor", "volume", "slice", "subject", "step"} <= set(table.columns)
    assert {"metric", "value", "seed", "n_acquired"} <= set(table.columns)
    assert set(table["step"]) == set(range(5))
    assert (table["n_acquired"] == 4 + table["step"]).all()
    assert set(summary) == {"task", "results", "traits", "adaptivity"}
    assert summary["traits"]["lbcs"]["is_order"] and not summary["traits"]["oracle"]["is_order"]
    traits = table.groupby("policy")[["is_order", "is_random", "is_oracle", "repeats"]].first()
    assert traits.loc["random"].tolist() == [False, True, False, False]
    assert traits.loc["lbcs"].tolist() == [True, False, False, False]
    assert traits.loc["oracle"].tolist() == [False, False, True, False]
    row = next(r for r in summary["results"] if r["policy"] == "lbcs" and r["metric"] == "ssim")
    assert {"auc", "auc_lo", "auc_hi", "final", "final_lo", "final_hi"} <= set(row)
    assert row["n_slices"] == 3 and row["n_subjects"] == 3
    assert report.startswith("<!doctype html>") or report.lower().startswith("<!doctype html>")


def test_the_summary_is_the_mean_of_the_long_table(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path))
    table = pd.read_parquet(tmp_path / "results.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())["results"]
    own = table[(table["policy"] == "random") & (table["metric"] == "psnr")]
    curves = own.pivot(index=["volume", "slice"], columns="step", values="value").to_numpy()
    row = next(r for r in summary if r["policy"] == "random" and r["metric"] == "psnr")
    assert row["auc"] == pytest.approx(np.trapezoid(curves, axis=1).mean() / 4, rel=1e-12)
    assert row["final"] == pytest.approx(curves[:, -1].mean(), rel=1e-12)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    first = run_benchmark(settings(tmp_path / "a")).table
    again = run_benchmark(settings(tmp_path / "b")).table
    other = run_benchmark(settings(tmp_path / "c", seed=1)).table
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    drawn = first["policy"] == "random"
    assert not np.array_equal(first[drawn]["value"], other[drawn]["value"])
    assert np.array_equal(first[~drawn]["value"], other[~drawn]["value"])


def test_random_policies_run_with_every_seed_and_others_once(tmp_path: Path) -> None:
    table = run_benchmark(settings(tmp_path, n_seeds=3)).table
    assert set(table[table["policy"] == "random"]["seed"]) == {0, 1, 2}
    assert set(table[table["policy"] == "low-frequency-first"]["seed"]) == {0}


def test_an_interrupted_benchmark_continues_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_benchmark(settings(tmp_path / "whole")).table
    played: list[int] = []

    def interrupted(*arguments: object, **keywords: object) -> object:
        if len(played) == 1:
            raise KeyboardInterrupt
        played.append(1)
        return rollout(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path / "cut"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.parquet")}
    assert len(kept) == 1
    monkeypatch.setattr(run, "rollout", rollout)

    continued = run_benchmark(settings(tmp_path / "cut")).table

    pd.testing.assert_frame_equal(whole, continued, check_exact=True)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


@pytest.mark.long
def test_workers_give_the_same_table(tmp_path: Path) -> None:
    one = run_benchmark(settings(tmp_path / "one")).table
    two = run_benchmark(settings(tmp_path / "two", workers=2)).table
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_folder_with_other_settings_is_refused_and_the_difference_shown(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path))
    with pytest.raises(ValueError, match="budget was 4, now 3"):
        run_benchmark(settings(tmp_path, budget=3))


def test_a_policy_can_be_added_to_a_finished_benchmark(tmp_path: Path) -> None:
    whole = settings(tmp_path / "whole", policies=("lbcs", "exchange-oracle", "random"))
    expected = run_benchmark(whole).table
    run_benchmark(replace(whole, out=tmp_path / "grown", policies=("lbcs", "exchange-oracle")))
    kept = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "grown").rglob("parts/**/*.parquet")
    }

    grown = run_benchmark(replace(whole, out=tmp_path / "grown")).table

    pd.testing.assert_frame_equal(grown, expected, check_exact=True)
    assert kept and all(path.stat().st_mtime_ns == then for path, then in kept.items())


def test_what_has_a_name_of_the_folder_must_be_the_same(tmp_path: Path) -> None:
    both = settings(tmp_path, policies=("lbcs", "exchange-oracle"), reference="exchange-oracle")
    run_benchmark(both)
    with pytest.raises(ValueError, match="policy exchange-oracle was exchange-oracle lbcs, now"):
        run_benchmark(replace(both, policies=("exchange-oracle",)))
    order = tmp_path / "lbcs.json"
    order.write_bytes((tmp_path / "orders" / "lbcs-zero-filled.json").read_bytes())
    another = replace(both, policies=("random", str(order)), reference="random")
    for between in (both, replace(both, policies=("random",), reference="random")):
        run_benchmark(between)
        with pytest.raises(ValueError, match="policy lbcs was lbcs, now"):
            run_benchmark(another)


def test_a_mistake_does_not_take_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        run_benchmark(settings(tmp_path, policies=("ranodm",)))
    assert len(run_benchmark(settings(tmp_path)).table) > 0


def test_orders_and_checkpoints_are_taken_by_path(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path / "first", policies=("lbcs",), reference="lbcs"))
    order = tmp_path / "first" / "orders" / "lbcs-zero-filled.json"
    network = UNet(channels=2, pools=1)
    path = checkpoints.save(
        tmp_path / "tiny",
        kind="unet",
        settings=network.settings,
        state_dict=network.state_dict(),
        info={},
    )
    table = run_benchmark(
        settings(tmp_path / "second", policies=(str(order),), reconstructors=(str(path),))
    ).table
    assert set(table["policy"]) == {"lbcs-zero-filled"}
    assert set(table["reconstructor"]) == {"tiny"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ("ranodm",)}, "unknown policy 'ranodm'"),
        ({"reconstructors": ("unett",)}, "unett"),
        ({"split": "tset"}, "tset"),
        ({"policies": ("random", "random")}, "would both be called 'random'"),
        ({"n_center_lines": 24}, "nothing is left to acquire"),
        ({"metric": "foo"}, "unknown metric 'foo'"),
        ({"reference": "nobody"}, "reference 'nobody' is not among the policies"),
    ],
)
def test_mistakes_are_told_apart(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_benchmark(settings(tmp_path, **changes))


def test_a_missing_folder_of_scans_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_benchmark(settings(tmp_path / "out", data=str(tmp_path / "nowhere")))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write into"):
        run_benchmark(settings(tmp_path / "file" / "out"))


def test_an_order_is_not_scored_on_the_subjects_it_was_fitted_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scored on subjects that they are fitted on"):
        run_benchmark(settings(tmp_path, split="train", policies=("lbcs",)))


def test_results_of_other_weights_are_not_taken_for_these(tmp_path: Path) -> None:
    def train_again(seed: int) -> Path:
        torch.manual_seed(seed)
        network = UNet(channels=2, pools=1)
        return checkpoints.save(
            tmp_path / "tiny",
            kind="unet",
            settings=network.settings,
            state_dict={k: torch.randn_like(v) for k, v in network.state_dict().items()},
            info={},
        )

    options = settings(tmp_path / "out", reconstructors=(str(train_again(0)),))
    run_benchmark(options)
    run_benchmark(options)
    train_again(1)
    with pytest.raises(ValueError, match="reconstructor tiny was"):
        run_benchmark(options)


def test_results_of_other_settings_of_the_same_weights_are_not_taken_for_these(
    tmp_path: Path,
) -> None:
    network = UNet(channels=2, pools=1)

    def recalibrate(factor: float) -> Path:
        changed = Recalibrated(network, observed=[factor])
        return save_reconstructor(tmp_path / "tiny", changed, info={})

    found = [
        Plan(settings(tmp_path / "out", reconstructors=(str(recalibrate(factor)),))).fingerprint
        for factor in (1.0, 1.0, 2.0)
    ]
    assert found[0] == found[1] != found[2]


def test_a_part_that_was_cut_off_is_played_again(tmp_path: Path) -> None:
    whole = run_benchmark(settings(tmp_path)).table
    part = next((tmp_path / "parts").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    pd.testing.assert_frame_equal(whole, run_benchmark(settings(tmp_path)).table)


def test_the_shipped_pair_can_be_benchmarked_by_name(tmp_path: Path) -> None:
    policies = ("low-frequency-first", "uncertainty-greedy", "evaluator-greedy")
    outcome = run_benchmark(
        settings(
            tmp_path,
            policies=policies,
            reconstructors=("cresnet",),
            matrix=128,
            budget=2,
            max_slices=1,
            n_center_lines=8,
        )
    )
    assert set(outcome.table["policy"]) == set(policies)


def test_a_policy_that_asks_for_what_the_reconstructor_does_not_give_is_refused_at_once(
    tmp_path: Path,
) -> None:
    refused = settings(tmp_path, policies=("uncertainty-greedy",))
    with pytest.raises(ValueError, match=r"uncertainty-greedy with reconstructor zero-filled: .*"):
        run_benchmark(refused)
    too_wide = settings(tmp_path, policies=("evaluator-greedy",), matrix=140)
    with pytest.raises(ValueError, match="this evaluator scores 128 lines"):
        run_benchmark(too_wide)


def test_an_evaluator_that_was_not_trained_with_the_reconstructor_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_reconstructor(tmp_path / "best", UNet(channels=2, pools=1), info={})
    asked = settings(
        tmp_path / "out",
        policies=("evaluator-greedy",),
        reconstructors=(str(tmp_path / "best"),),
        reference="evaluator-greedy",
    )
    Plan(asked)
    assert "no evaluator lies beside reconstructor" in caplog.text
    save_evaluator(tmp_path / "evaluator", Evaluator(8, channels=2, layers=1), info={})
    caplog.clear()
    Plan(asked)
    assert "scores 8 lines" in caplog.text
    assert "no evaluator lies beside reconstructor" in caplog.text
