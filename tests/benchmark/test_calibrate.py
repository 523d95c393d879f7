import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri import cli
from activemri.benchmark import calibrate
from activemri.benchmark.calibrate import (
    CalibrateSettings,
    assembled,
    calibration_table,
    collect,
    open_scans,
    relative_maps,
)
from activemri.benchmark.calibration import NUMBERS, Case, measure
from activemri.envs.protocol import ScanProtocol
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.ensemble import Ensemble, MonteCarloDropout
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.reconstructor import Reconstruction
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from tests.envs.scans import Unsure

PROTOCOL = ScanProtocol(
    split="test", matrix_size=24, budget=6, n_center_lines=4, reconstructor=Unsure()
)


def network(seed: int) -> CResNet:
    """Untrained but for a last layer that changes the image and is not equally sure everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = CResNet(4, blocks=1, residual_blocks=1, dropout=0.2)
        last = list(made.parameters())[-2]
        with torch.no_grad():
            last.copy_(0.3 * torch.randn(last.shape))
    return made.eval()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("networks")
    return [str(save_reconstructor(folder / f"net{s}", network(s), info={})) for s in (0, 1)]


@pytest.fixture(autouse=True)
def few_scans_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "_N_RECORDED", 2)


def line(given: str, *, out: Path, size: int = 24, n: int = 3) -> list[str]:
    command = f"calibrate --matrix-size {size} --max-slices {n} --budget 6 --n-center-lines 4"
    return [*f"{command} {given}".split(), "--out", str(out)]


@pytest.mark.long
def test_the_ensemble_is_measured_corrected_and_written(
    checkpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"--ensemble {' '.join(checkpoints)} --dropout-samples 2"
    out = tmp_path / "out"
    assert cli.main(line(given, out=out, size=32, n=5)) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "calibration.json").read_text())
    assert set(found["before"]["numbers"]) == set(NUMBERS)
    after = found["after"]["numbers"]
    assert after["ece"]["value"] < 0.7 * found["before"]["numbers"]["ece"]["value"]
    assert f"{after['ece']['value']:.3f} [{after['ece']['low']:.3f}" in printed
    assert found["counts"]["test"] | {"pixels": 0} == {
        "subjects": 5, "slices": 5, "moments": 4, "pixels": 0
    }  # fmt: skip
    assert list(found["by_lines_acquired"]) == ["0", "2", "4", "6"]
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert str(out / "recalibrated") in printed
    made = make_reconstructor(out)
    assert isinstance(made, Recalibrated) and isinstance(made.reconstructor, Ensemble)
    assert all(isinstance(member, MonteCarloDropout) for member in made.reconstructor.members)
    assert made.settings["predicted"] == found["recalibration"]["predicted"]
    info = json.loads((out / "recalibrated.json").read_text())["info"]
    assert info["fitted_on"]["split"] == "val" and info["made_of"] == checkpoints
    assert cli.main(line(f"--reconstructor {out}", out=tmp_path / "again", size=32, n=5)) == 0
    before = json.loads((tmp_path / "again" / "calibration.json").read_text())["before"]
    for name, number in after.items():
        # Where the map is flat, rounding orders the pixels.
        assert before["numbers"][name]["value"] == pytest.approx(number["value"], rel=0.03), name


def test_a_single_factor_scales_the_deviations(checkpoints: list[str], tmp_path: Path) -> None:
    given = f"--reconstructor {checkpoints[0]} --n-knots 1"
    assert cli.main(line(given, out=tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    (predicted,), (observed,) = found["recalibration"].values()
    before, after = (found[when]["numbers"] for when in ("before", "after"))
    ratio = after["rms_predicted"]["value"] / before["rms_predicted"]["value"]
    assert ratio == pytest.approx(observed / predicted, rel=1e-4)
    assert after["spearman"] == before["spearman"]


@pytest.mark.parametrize(
    "protocol",
    [
        {"geometry": "rows", "lines_per_action": 2},
        {"geometry": "points", "budget": 9},
        {"scanner": "moving", "severity": 0.05, "repeats": 2, "budget": None},
    ],
)
def test_scans_of_every_protocol_are_judged_at_their_moments(protocol: dict[str, Any]) -> None:
    settings = CalibrateSettings(protocol=replace(PROTOCOL, **protocol), max_slices=2)
    scans, _ = open_scans(settings)
    one, again = scans.batch(scans.indices[0]), scans.batch(scans.indices[0])
    assert torch.equal(one.measurement.zero_filled, again.measurement.zero_filled)
    n_acquired = one.acquired.sum(dim=1).tolist()
    assert len(n_acquired) == 4 and n_acquired[0] < n_acquired[-1]
    assert all(np.isfinite(case.error).all() for case in collect(Unsure(), scans))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--reconstructor zero-filled", "ZeroFilled gives no uncertainty"),
        ("--reconstructor zero-filled --dropout-samples 4", "needs a network with dropout"),
        ("--reconstructor no/such/file", "found no checkpoint at no/such/file"),
        ("--split moon", "--split moon: "),
        ("--fit-split moon", "--fit-split moon: "),
        ("--fit-split test", "must be fitted on other subjects"),
        ("--ensemble cresnet cresnet", "got one twice"),
        ("--data no/such/folder", "nothing is at no/such/folder"),
        ("--device moon", "device 'moon' cannot be used here"),
        ("--budget 0", "budget"),
    ],
)
def test_a_mistake_is_one_clear_line(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line(given, out=tmp_path)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("activemri: error: ") == 1 and "Traceback" not in message
    assert not (tmp_path / "calibration.json").exists()


def test_an_output_folder_that_is_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(line("", out=tmp_path / "file")) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dropout_samples": 1}, "--dropout-samples: expected 2 or more"),
        ({"n_knots": 33}, "--n-knots: expected 1 to 32"),
        ({"foreground": 1.0}, "--foreground"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CalibrateSettings(**wrong)


def test_errors_and_uncertainties_of_the_central_part_are_relative_to_the_whole_image() -> None:
    batch = open_scans(CalibrateSettings(protocol=PROTOCOL, max_slices=1))[0].batch(0)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 24, 24, dtype=torch.complex64, generator=generator)
    result = Reconstruction(image, image.abs() / 10)
    predicted, error = relative_maps(batch, result)
    scale = np.sqrt(np.square(image.abs().double().numpy()).mean(axis=(1, 2), keepdims=True))
    assert np.allclose(predicted, image.abs().numpy() / 10 / scale, rtol=1e-4)
    assert np.allclose(error, (image.abs() - batch.target).abs().numpy() / scale, rtol=1e-4)
    parts = relative_maps(replace(batch, target=batch.target[:, 4:20, 6:18]), result)
    for whole, part in zip((predicted, error), parts, strict=True):
        assert np.allclose(whole[:, 4:20, 6:18], part)
    black = relative_maps(
        replace(batch, target=0 * batch.target), Reconstruction(0 * image, 0 * image.abs())
    )
    assert all(np.isfinite(values).all() for values in black)


def test_scans_are_measured_on_their_foreground_or_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = CalibrateSettings(protocol=PROTOCOL, max_slices=2)
    reconstructor = assembled(settings)
    scans, _ = open_scans(settings)
    cases = collect(reconstructor, scans)
    target = scans.scans[scans.indices[0]].target
    assert len(cases[0].error) == int((target > 0.1 * target.max()).sum()) < 24 * 24
    assert [case.step for case in cases] == [0, 2, 4, 6] * 2
    whole = collect(reconstructor, scans, fraction=None)
    assert all(len(case.error) == 24 * 24 for case in whole)
    monkeypatch.setattr(calibrate, "_N_PIXELS", 50)
    few, again = collect(reconstructor, scans), collect(reconstructor, scans)
    assert all(len(case.error) == 50 for case in few)
    assert np.isin(few[0].error, cases[0].error).all()
    assert all(np.array_equal(a.error, b.error) for a, b in zip(few, again, strict=True))


def test_the_table_says_that_one_subject_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    found = measure([Case("v", 0, "s", 0, rng.random(100), rng.random(100))])
    counts = {"subjects": 1, "slices": 1, "moments": 1}
    shown = calibration_table(found, found, name="net", counts={"test": counts, "val": counts})
    assert "No intervals: too few subjects." in shown.text() and "[" not in shown.text()
