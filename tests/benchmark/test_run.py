"""A benchmark from settings to files, and in memory."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import activemri.benchmark
from activemri import checkpoints, cli
from activemri.agents.order import Order
from activemri.agents.policy import Traits
from activemri.agents.rollout import rollout
from activemri.benchmark import run
from activemri.benchmark.plan import (
    BenchmarkSettings,
    Plan,
    _digest_of_files,
    label_policies,
    label_reconstructors,
)
from activemri.benchmark.run import benchmark, run_benchmark
from activemri.benchmark.statistics import policies_that, summarise
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import View
from activemri.evaluator import Evaluator, save_evaluator
from activemri.options import RunOptions
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.registry import save_reconstructor
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.data.files import write_image

HEURISTICS = ("random", "low-frequency-first")
PROTOCOL = ScanProtocol(split="test", matrix_size=24, budget=4, n_center_lines=4)


def settings(
    out: Path, *, protocol: dict[str, Any] | None = None, seed: int = 0, **changes: Any
) -> BenchmarkSettings:
    """Two policies on three small phantom scans."""
    options: dict[str, Any] = {
        "policies": HEURISTICS,
        "max_slices": 3,
        "n_fit_scans": 2,
        "max_fit_slices": 2,
    }
    return BenchmarkSettings(
        protocol=replace(PROTOCOL, **(protocol or {})),
        run=RunOptions(out=out, seed=seed),
        **(options | changes),
    )


def parts_of(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("parts/**/*.parquet")}


def test_it_writes_the_long_table_the_summary_and_the_report(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    policies = (*HEURISTICS, "lbcs", "oracle", "exchange-oracle")
    outcome = run_benchmark(settings(out, policies=policies))
    table, summary = pd.read_parquet(out / "results.parquet"), outcome.report.content
    assert json.loads((out / "summary.json").read_text())["results"] == summary["results"]
    assert set(table["step"]) == set(range(5))
    assert (table["n_acquired"] == 4 + table["step"]).all()
    traits = table.groupby("policy")[["is_order", "is_random", "is_oracle", "repeats"]].first()
    assert traits.loc["random"].tolist() == [False, True, False, False]
    assert traits.loc["lbcs"].tolist() == [True, False, False, False]
    assert traits.loc["oracle"].tolist() == [False, False, True, False]
    assert summary["traits"]["lbcs"]["is_order"] and not summary["traits"]["oracle"]["is_order"]
    row = next(r for r in summary["results"] if (r["policy"], r["metric"]) == ("lbcs", "psnr"))
    own = table[(table["policy"] == "lbcs") & (table["metric"] == "psnr")]
    curves = own.pivot(index=["volume", "slice"], columns="step", values="value").to_numpy()
    assert row["auc"] == pytest.approx(np.trapezoid(curves, axis=1).mean() / 4, rel=1e-12)
    assert (row["n_slices"], row["n_subjects"]) == (3, 3)
    page, text = (out / "report.html").read_text(), str(outcome)
    assert page.lower().startswith("<!doctype html>")
    for words in ("exchange-oracle", "Best fixed order, area: ", "of 4"):
        assert words in page and words in text
    assert "exchange-oracle (bound)" in text and "lbcs (bound)" not in text
    gaps = summary["adaptivity"]["gaps"]
    assert all(row["order"] in (*HEURISTICS, "lbcs") and row["why"] for row in gaps)


def test_orders_repeat_and_re_acquire_where_the_scanner_lets_them(tmp_path: Path) -> None:
    averaged = {"scanner": "noisy", "repeats": 2}
    names = ("lbcs", "lbcs-final", "average-oracle", "repeat-centre")
    outcome = run_benchmark(settings(tmp_path / "a", policies=names, protocol=averaged))
    assert policies_that(outcome.table, "is_order") == list(names)
    assert policies_that(outcome.table, "repeats") == ["lbcs", "lbcs-final", "repeat-centre"]
    path = tmp_path / "a" / "orders" / "lbcs-zero-filled.json"
    spoilt = {"scanner": "spiking", "severity": 0.8}
    given = ("lbcs", "lbcs+re-acquire", f"other={path}+re-acquire")
    outcome = run_benchmark(settings(tmp_path / "b", policies=given, protocol=spoilt))
    assert policies_that(outcome.table, "is_order") == ["lbcs"]
    assert policies_that(outcome.table, "repeats") == ["lbcs+re-acquire", "other"]
    assert len(list((tmp_path / "b" / "orders").iterdir())) == 1


def test_every_row_has_the_score_of_all_readouts_which_is_computed_once(tmp_path: Path) -> None:
    given = settings(tmp_path, protocol={"budget": 20, "scanner": "noisy"})
    table = run_benchmark(given).table
    own = table[table["metric"] == "ssim"]
    assert own["ceiling"].to_numpy() == pytest.approx(1)  # zero-filled images of ideal samples
    assert set(table["phase"]) == {"phantom"}
    (file,) = (tmp_path / "ceilings").rglob("*.parquet")
    before = file.stat().st_mtime_ns
    again = run_benchmark(replace(given, policies=(*HEURISTICS, "equispaced")))
    assert file.stat().st_mtime_ns == before and again.table["ceiling"].notna().all()
    assert "all readouts (ceiling) (bound)" in str(again)
    file.unlink()
    assert run_benchmark(given).table.equals(table)


def test_rows_of_other_data_or_processing_are_refused_with_the_reason() -> None:
    def play(*policies: str, **changes: Any) -> pd.DataFrame:
        protocol = replace(PROTOCOL, **changes)
        return benchmark(protocol, policies=policies, max_slices=2)

    first = play("random")
    assert summarise(pd.concat([first, play("equispaced")]))
    with pytest.raises(ValueError, match="n_center_lines is 4 and 6"):
        summarise(pd.concat([first, play("equispaced", n_center_lines=6)]))
    other = play("equispaced")
    other["content"] = "another"
    with pytest.raises(ValueError, match="other data: the scan phantom-"):
        summarise(pd.concat([first, other]))


def test_an_order_is_shown_with_its_cost_and_warned_of_where_learned_for_another_reconstructor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run_benchmark(settings(tmp_path / "a", policies=("lbcs",)))
    (row,) = outcome.report.content["training"]
    assert (row["policy"], row["taught_by"], row["subjects"]) == ("lbcs", "fitted", 2)
    learned = Order.load(tmp_path / "a" / "orders" / "lbcs-zero-filled.json")
    path = replace(learned, reconstructor="UNet", info={}).save(tmp_path / "mine")
    page = run_benchmark(settings(tmp_path / "b", policies=(str(path),))).report
    assert "mine was learned for UNet, and is played with zero-filled" in caplog.text
    assert page.content["training"][0]["seconds"] is None
    table = next(one for one in page.sections if one.title == "Training").blocks[0]
    assert "None" not in table.text()  # type: ignore[union-attr]


def test_seeds_are_for_policies_that_draw_and_change_these_alone(tmp_path: Path) -> None:
    first = run_benchmark(settings(tmp_path / "a", n_seeds=2)).table
    other = run_benchmark(settings(tmp_path / "b", seed=1)).table
    drawn = first["policy"] == "random"
    assert set(first[drawn]["seed"]) == {0, 1} and set(first[~drawn]["seed"]) == {0}
    again = first[drawn & (first["seed"] == 1)]["value"]
    assert np.array_equal(again, other[other["policy"] == "random"]["value"])
    assert not np.array_equal(again, first[drawn & (first["seed"] == 0)]["value"])
    assert np.array_equal(first[~drawn]["value"], other[other["policy"] != "random"]["value"])


def test_trainings_of_one_policy_play_with_a_seed_each_and_are_told_apart(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path / "first", policies=("lbcs",)))
    learned = Order.load(tmp_path / "first" / "orders" / "lbcs-zero-filled.json")
    paths = [tmp_path / f"run-{seed}.json" for seed in range(2)]
    for path, actions in zip(paths, (learned.actions, learned.actions[::-1]), strict=True):
        replace(learned, actions=actions).save(path)
    policies = ("lbcs", "random", "oracle", f"ours={paths[0]},{paths[1]}")
    given = settings(tmp_path / "second", policies=policies, protocol={"step_cost": 0.01})
    outcome = run_benchmark(given)
    own = outcome.table[outcome.table["policy"] == "ours"]
    first = own[(own["step"] == 1) & (own["metric"] == "ssim")].groupby("seed")["action"].first()
    lbcs = outcome.table[(outcome.table["policy"] == "lbcs") & (outcome.table["step"] == 1)]
    assert first[0] == lbcs["action"].iloc[0] and first[1] != first[0]
    assert len(Plan(given).fingerprint["policy ours"].split()) == 2
    assert policies_that(outcome.table, "is_order") == ["lbcs", "ours"]
    found = outcome.report.content["adaptivity"]
    assert {row["policy"] for row in found["seeds"]} == {"ours"}
    assert ("return", "final") in {(row["metric"], row["quantity"]) for row in found["gaps"]}
    acted = {row["policy"]: row for row in found["actions"]}
    assert acted["ours"]["overlap"] == 1 > acted["random"]["overlap"]


def test_an_interrupted_benchmark_continues_to_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_benchmark(settings(tmp_path / "whole")).table
    played: list[int] = []

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        if len(played) == 1:
            raise KeyboardInterrupt
        played.append(1)
        return rollout(*arguments, **keywords)

    monkeypatch.setattr(run, "rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path / "cut"))
    kept = parts_of(tmp_path / "cut")
    assert len(kept) == 1
    monkeypatch.setattr(run, "rollout", rollout)
    continued = run_benchmark(settings(tmp_path / "cut")).table
    pd.testing.assert_frame_equal(whole, continued, check_exact=True)
    assert kept.items() <= parts_of(tmp_path / "cut").items()
    part = next(iter(kept))
    part.write_bytes(part.read_bytes()[:100])  # cut off: it is played again
    pd.testing.assert_frame_equal(whole, run_benchmark(settings(tmp_path / "cut")).table)


@pytest.mark.long
def test_workers_give_the_same_table(tmp_path: Path) -> None:
    policies = (*HEURISTICS, "lbcs", "oracle")
    one, two = (
        run_benchmark(settings(tmp_path / str(n), workers=n, policies=policies)).table
        for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_a_folder_with_other_settings_is_refused_and_the_difference_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        run_benchmark(settings(tmp_path, policies=("ranodm",)))  # a mistake takes no folder
    run_benchmark(settings(tmp_path))
    with pytest.raises(ValueError, match=r"protocol was .*'budget': 4.*, now .*'budget': 3"):
        run_benchmark(settings(tmp_path, protocol={"budget": 3}))


def test_phantoms_of_as_many_subjects_as_wanted_are_scanned(tmp_path: Path) -> None:
    given = settings(tmp_path, policies=("random",), reference="random", protocol={"budget": 2})
    table = run_benchmark(replace(given, n_subjects=3, max_slices=None)).table
    assert table["subject"].nunique() == 3
    images = np.ones((2, 24, 24), np.float32)
    for data in (images, str(tmp_path)):
        protocol = replace(given.protocol, data=data, matrix_size=None)
        with pytest.raises(ValueError, match="n_subjects is for phantoms"):
            Plan(replace(given, protocol=protocol, n_subjects=3))


def test_a_benchmark_of_scans_that_have_changed_since_is_refused_with_the_name_of_the_first(
    tmp_path: Path,
) -> None:
    for number in range(3):
        write_image(tmp_path / "scans" / f"{number}.h5", shape=(1, 24, 24), seed=number)
    given = settings(tmp_path / "out", protocol={"data": str(tmp_path / "scans"), "split": "all"})
    given = replace(given, policies=("random",), reference="random")
    run_benchmark(given)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    path, played = tmp_path / "scans" / "1.h5", parts_of(tmp_path / "out")
    assert summary["scans"]["1"] == hashlib.sha256(path.read_bytes()).hexdigest()
    run_benchmark(replace(given, verify_data=True))
    status = path.stat()
    write_image(tmp_path / "new.h5", shape=(1, 24, 24), seed=7)
    os.replace(tmp_path / "new.h5", path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"the scan 1 has changed since .*Choose another --out"):
        run_benchmark(replace(given, verify_data=True))
    os.utime(path)
    with pytest.raises(ValueError, match="the scan 1 has changed since "):
        run_benchmark(given)
    assert parts_of(tmp_path / "out") == played
    overwriting = replace(given, run=replace(given.run, overwrite=True))
    run_benchmark(overwriting)
    now = json.loads((tmp_path / "out" / "summary.json").read_text())["scans"]
    assert now["1"] != summary["scans"]["1"] and now["0"] == summary["scans"]["0"]


def test_scans_that_change_while_they_are_played_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_image(tmp_path / "scans" / f"{number}.h5", shape=(1, 24, 24), seed=number)
    given = settings(tmp_path / "out", protocol={"data": str(tmp_path / "scans"), "split": "all"})

    play = run._play

    def changing(plan: Plan) -> pd.DataFrame:
        table = play(plan)
        write_image(tmp_path / "new.h5", shape=(1, 24, 24), seed=7)
        os.replace(tmp_path / "new.h5", tmp_path / "scans" / "0.h5")
        return table

    monkeypatch.setattr(run, "_play", changing)
    with pytest.raises(ValueError, match=r"the scan 0 has changed while .* was made"):
        run_benchmark(replace(given, policies=("random",), reference="random"))
    assert not (tmp_path / "out" / "results.parquet").exists()


def test_tables_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path))
    part = next(iter(parts_of(tmp_path)))
    pd.read_parquet(part).drop(columns="subject").to_parquet(part)
    with pytest.raises(ValueError, match="lacks the columns subject"):
        run_benchmark(settings(tmp_path))
    (tmp_path / "activemri.json").unlink()  # which earlier versions did not write
    with pytest.raises(ValueError, match="that 'activemri benchmark' has not made"):
        run_benchmark(settings(tmp_path))


def test_a_policy_can_be_added_to_a_finished_benchmark(tmp_path: Path) -> None:
    both = ("lbcs", "exchange-oracle")
    expected = run_benchmark(settings(tmp_path / "whole", policies=(*both, "random"))).table
    run_benchmark(settings(tmp_path / "grown", policies=both))
    kept = parts_of(tmp_path / "grown")
    grown = run_benchmark(settings(tmp_path / "grown", policies=(*both, "random"))).table
    pd.testing.assert_frame_equal(grown, expected, check_exact=True)
    assert kept and kept.items() <= parts_of(tmp_path / "grown").items()


def test_players_of_one_name_in_a_folder_must_be_the_same(tmp_path: Path) -> None:
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


def tiny_network(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = UNet(channels=2, pools=1)
    weights = {name: torch.randn_like(value) for name, value in network.state_dict().items()}
    return checkpoints.save(
        path, kind="unet", settings=network.settings, state_dict=weights, info={}
    )


def test_results_of_other_weights_or_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    options = settings(tmp_path / "out", reconstructors=(str(tiny_network(tmp_path / "tiny")),))
    assert set(run_benchmark(options).table["reconstructor"]) == {"tiny"}
    run_benchmark(options)
    tiny_network(tmp_path / "tiny", seed=1)
    with pytest.raises(ValueError, match="reconstructor tiny was"):
        run_benchmark(options)

    def mark(factor: float) -> dict[str, str]:
        changed = Recalibrated(UNet(channels=2, pools=1), observed=[factor])
        path = save_reconstructor(tmp_path / "factor", changed, info={})
        return Plan(settings(tmp_path / "out", reconstructors=(str(path),))).fingerprint

    torch.manual_seed(0)
    first = mark(1.0)
    torch.manual_seed(0)
    assert first != mark(2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ("ranodm",)}, "unknown policy 'ranodm'"),
        ({"reconstructors": ("unett",)}, "unett"),
        ({"protocol": {"split": "tset"}}, "tset"),
        ({"policies": ("random", "random")}, "would both be called 'random'"),
        ({"protocol": {"n_center_lines": 24}}, "nothing is left to acquire"),
        ({"metric": "foo"}, "unknown metric 'foo'"),
        ({"reference": "nobody"}, "reference 'nobody' is not among the policies"),
        (
            {"policies": ("lbcs",), "protocol": {"split": "train"}},
            "learned orders.* are scored as well",
        ),
        ({"policies": ("uncertainty-greedy",)}, "uncertainty-greedy with reconstructor zero-fill"),
        (
            {"policies": ("evaluator-greedy",), "protocol": {"matrix_size": 140}},
            "this evaluator scores 128 lines",
        ),
        ({"protocol": {"data": None}}, "needs scans"),
        ({"policies": ("re-acquire",)}, "'re-acquire' needs readouts that may be measured again"),
        (
            {"policies": ("lbcs+re-acquire",), "protocol": {"scanner": "noisy"}},
            r"'lbcs\+re-acquire' needs a scanner that objects.*Noisy never does: choose",
        ),
    ],
)
def test_mistakes_are_told_apart_before_anything_is_played(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_benchmark(settings(tmp_path, **changes))
    assert not list(tmp_path.rglob("*.parquet"))


def test_folders_that_are_missing_or_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_benchmark(settings(tmp_path / "out", protocol={"data": str(tmp_path / "nowhere")}))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        run_benchmark(settings(tmp_path / "file" / "out"))


def test_the_shipped_pair_can_be_benchmarked_by_name(tmp_path: Path) -> None:
    policies = ("low-frequency-first", "uncertainty-greedy", "evaluator-greedy", "imitation")
    protocol = {
        "reconstructor": "cresnet", "matrix_size": None, "budget": 2, "n_center_lines": 8
    }  # fmt: skip
    outcome = run_benchmark(
        settings(tmp_path / "out", policies=policies, protocol=protocol, max_slices=1)
    )
    assert set(outcome.table["policy"]) == set(policies)
    assert set(outcome.table["reconstructor"]) == {"cresnet"}


def test_an_evaluator_that_was_not_trained_with_the_reconstructor_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tiny_network(tmp_path / "best"))
    given = settings(tmp_path / "out", policies=("evaluator-greedy",), reconstructors=(path,))
    Plan(given)
    assert "no evaluator lies beside reconstructor" in caplog.text
    save_evaluator(tmp_path / "evaluator", Evaluator(8, channels=2, layers=1), info={})
    caplog.clear()
    Plan(given)
    assert "scores 8 lines" in caplog.text
    assert "no evaluator lies beside reconstructor" in caplog.text


def test_a_trained_diffusion_model_plays(tmp_path: Path) -> None:
    network = Diffusion(8, n_samples=2, n_steps=2)
    path = str(save_reconstructor(tmp_path / "small", network, info={}))
    policies = ("entropy-greedy", "look-ahead")
    given = settings(
        tmp_path / "out",
        policies=policies,
        reconstructors=(path, "cresnet"),
        protocol={"budget": 2},
        max_slices=1,
    )
    table = run_benchmark(given).table
    assert set(table["policy"]) == set(policies)
    assert set(table["reconstructor"]) == {"small", "cresnet"}


@pytest.mark.parametrize(
    "words",
    [
        "--env ActiveMRI/EchoTrain-v0 --budget 8",
        "--geometry points --budget 3",
        "--scanner moving --severity 0.04 --repeats 2 --step-cost 0.01",
        "--data phantom-multicoil --sensitivity walsh",
    ],
)
def test_the_command_takes_every_scan_protocol(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = "--policies random,lbcs oracle --reconstructors zero-filled --max-slices 2"
    small = "--matrix-size 16 --n-center-lines 4 --n-fit-scans 1 --max-fit-slices 1 --budget 4"
    more = "--max-oracle-slices 1 --out"
    line = f"benchmark {small} {fixed} {words} {more}".split()
    assert cli.main([*line, str(tmp_path)]) == 0, capsys.readouterr().err
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table["policy"]) == {"random", "lbcs", "oracle"}
    assert json.loads((tmp_path / "summary.json").read_text())["task"]["split"] == "test"
    n_slices = table.groupby("policy")["volume"].nunique().to_dict()
    assert n_slices == {"random": 2, "lbcs": 2, "oracle": 1}
    assert "slices" in capsys.readouterr().out


@dataclass(frozen=True)
class Last:
    """The legal action of the highest number."""

    name: str = "last"
    traits: ClassVar[Traits] = Traits(is_order=True)

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        return view.legal.shape[1] - 1 - view.legal.flip(1).long().argmax(dim=1)


class Twice(ZeroFilled):
    """A reconstructor of a user's own."""


def test_objects_are_compared_in_memory(tmp_path: Path) -> None:
    policies: list[Any] = ["random", Last()]
    table = activemri.benchmark(
        replace(PROTOCOL, split="train"),
        policies=policies,
        reconstructors=["zero-filled", Twice()],
        max_slices=3,
    )
    assert policies_that(table, "is_order") == ["last"]
    assert set(table["reconstructor"]) == {"zero-filled", "Twice"}
    assert {row["policy"] for row in summarise(table)} == {"random", "last"}
    named = run_benchmark(settings(tmp_path, policies=("random",))).table
    own = table[(table["policy"] == "random") & (table["reconstructor"] == "zero-filled")]
    pd.testing.assert_frame_equal(own.reset_index(drop=True), named, check_exact=True)


@pytest.mark.long
def test_objects_can_be_played_by_several_processes() -> None:
    one, two = (
        benchmark(PROTOCOL, policies=["random", Last()], max_slices=2, workers=n) for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_names_stay_and_paths_and_objects_get_short_labels() -> None:
    given: list[Any] = [
        "random",
        "runs/mine/best.safetensors",
        "orders/lbcs-unet.json",
        "orders/lbcs-unet.json+re-acquire",
        "a/b",
        Last(),
    ]
    labels = ["random", "mine", "lbcs-unet", "lbcs-unet+re-acquire", "b", "last"]
    assert list(label_policies(given)) == labels
    assert list(label_policies(["package.module:Mine"])) == ["Mine"]
    assert label_policies(["runs/lr=1/best"]) == {"lr=1": ("runs/lr=1/best",)}
    assert label_reconstructors(["unet", "runs/x/best"]) == {"unet": "unet", "x": "runs/x/best"}


@pytest.mark.parametrize("given", [["d=r/s0,r/s1,r/s2"], ["d=r/s0", "d=r/s1", "d=r/s2"]])
def test_trainings_with_several_seeds_are_one_policy(given: list[str]) -> None:
    found = label_policies(["lbcs", *given])
    assert found == {"lbcs": ("lbcs",), "d": ("r/s0", "r/s1", "r/s2")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a/x", "b/x"], "would both be called 'x'"),
        (["a/x", "x=b/y"], "would both be called 'x'"),
        (["x=b/y", "a/x"], "would both be called 'x'"),
        (["x=a/y,a/y"], "holds the same file twice"),
        (["x=a/y", "x=a/y"], "holds the same file twice"),
        (["x="], "expected LABEL=PATH"),
        (["=a/y"], "expected LABEL=PATH"),
        (["x=a/y,,b/y"], "expected LABEL=PATH"),
        (["lbcs=a/y"], "'lbcs' is a built-in policy"),
        (["best=oracle"], "'oracle' is a built-in policy"),
        (["best=lbcs+re-acquire"], "'lbcs' is a built-in policy"),
    ],
)
def test_labels_that_mislead_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_policies(given)
    with pytest.raises(ValueError, match="would both be called 'x'"):
        label_reconstructors(["runs/x/best", "other/x"])


def test_digests_are_of_the_contents_of_files(tmp_path: Path) -> None:
    assert _digest_of_files("random") == "" == _digest_of_files(Last())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.safetensors").write_bytes(b"weights")
        (tmp_path / name / "best.json").write_text("{}")
    paths = [tmp_path / "a", tmp_path / "a" / "best", tmp_path / "b" / "best.safetensors"]
    same = {_digest_of_files(str(path)) for path in paths}
    assert len(same) == 1 and same != {""}
    (tmp_path / "b" / "best.json").write_text("{ }")
    assert _digest_of_files(str(tmp_path / "b")) not in same


def test_settings_that_make_no_sense_are_refused() -> None:
    mistakes: dict[str, dict[str, Any]] = {
        "--n-seeds": {"n_seeds": 0},
    }
    for said, wrong in mistakes.items():
        with pytest.raises(ValueError, match=said):
            BenchmarkSettings(**wrong)
