import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from activemri import cli
from activemri.agents.episode_masks import Moment
from activemri.benchmark.calibrate import assembled, collect, everywhere, relative_maps
from activemri.benchmark.calibration import NUMBERS, Case
from activemri.benchmark.calibration_report import table
from activemri.data.phantoms import PhantomDataset
from activemri.envs.protocol import ScanProtocol
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.dropout import MonteCarloDropout
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.settings import CalibrateSettings
from activemri.training.batches import Batch, make_batch

SIZE = (16, 20)


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


def line(*networks: str, out: Path, more: str = "") -> list[str]:
    command = "calibrate --matrix 32 --max-slices 5 --budget 6 --n-center-lines 4 --n-bootstrap 50"
    return [*command.split(), "--reconstructor", *networks, "--out", str(out), *more.split()]


def test_everything_is_written_and_the_table_says_the_same(
    checkpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line(*checkpoints, out=tmp_path, more="--dropout-samples 2")) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert set(found["before"]["numbers"]) == set(NUMBERS)
    after = found["after"]["numbers"]
    assert after["ece"]["value"] < 0.7 * found["before"]["numbers"]["ece"]["value"]
    assert after["ece"]["low"] <= after["ece"]["high"]
    assert f"{after['ece']['value']:.3f} [{after['ece']['low']:.3f}" in printed
    assert found["counts"]["test"] | {"pixels": 0} == {
        "subjects": 5, "slices": 5, "moments": 4, "pixels": 0
    }  # fmt: skip
    assert list(found["by_lines_acquired"]) == ["0", "2", "4", "6"]
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "recalibrated") in printed


def test_the_checkpoint_is_the_recalibrated_whole(
    checkpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line(*checkpoints, out=tmp_path, more="--dropout-samples 2")) == 0
    made = make_reconstructor(tmp_path)
    assert isinstance(made, Recalibrated)
    assert isinstance(made.reconstructor, Ensemble)
    assert all(isinstance(member, MonteCarloDropout) for member in made.reconstructor.members)
    found = json.loads((tmp_path / "calibration.json").read_text())["recalibration"]
    assert made.settings["predicted"] == found["predicted"]
    assert len(found["predicted"]) > 10
    info = json.loads((tmp_path / "recalibrated.json").read_text())["info"]
    assert info["fitted_on"]["split"] == "val" and info["made_of"] == checkpoints
    again = line(str(tmp_path), out=tmp_path / "again")
    assert cli.main(again) == 0
    before = json.loads((tmp_path / "again" / "calibration.json").read_text())["before"]
    after = json.loads((tmp_path / "calibration.json").read_text())["after"]
    for name, number in after["numbers"].items():
        # Where the map is flat, rounding orders the pixels.
        assert before["numbers"][name]["value"] == pytest.approx(number["value"], rel=0.03), name


def test_a_single_factor_can_be_asked_for(checkpoints: list[str], tmp_path: Path) -> None:
    assert cli.main(line(checkpoints[0], out=tmp_path, more="--n-knots 1")) == 0
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert len(found["recalibration"]["predicted"]) == 1
    before, after = (found[when]["numbers"] for when in ("before", "after"))
    factor = found["recalibration"]["observed"][0] / found["recalibration"]["predicted"][0]
    ratio = after["rms_predicted"]["value"] / before["rms_predicted"]["value"]
    assert ratio == pytest.approx(factor, rel=1e-4)
    assert after["spearman"] == before["spearman"]


def test_more_than_the_foreground_can_be_judged(checkpoints: list[str], tmp_path: Path) -> None:
    counts = []
    for share in ("0.0", "0.5"):
        out = tmp_path / share
        assert cli.main(line(checkpoints[0], out=out, more=f"--foreground {share}")) == 0
        counts.append(json.loads((out / "calibration.json").read_text())["counts"]["test"])
    assert counts[0]["pixels"] > 1.5 * counts[1]["pixels"]


@pytest.mark.parametrize(
    ("networks", "more", "said"),
    [
        (["zero-filled"], "", "ZeroFilled gives no uncertainty"),
        (["zero-filled"], "--dropout-samples 4", "needs a network with dropout"),
        (["no/such/file"], "", "found no checkpoint at no/such/file"),
        (["NET"], "--split moon", "--split moon: "),
        (["NET"], "--fit-split moon", "--fit-split moon: "),
        (["NET"], "--fit-split test", "must be fitted on other subjects"),
        (["NET", "NET"], "", "got one twice"),
        (["NET"], "--data no/such/folder", "nothing is at no/such/folder"),
        (["NET"], "--device moon", "device 'moon' cannot be used here"),
    ],
)
def test_a_mistake_is_one_clear_line(
    networks: list[str],
    more: str,
    said: str,
    checkpoints: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = [checkpoints[0] if name == "NET" else name for name in networks]
    assert cli.main(line(*named, out=tmp_path, more=more)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("activemri: error: ") == 1 and "Traceback" not in message
    assert not (tmp_path / "calibration.json").exists()


def test_an_output_folder_that_is_a_file_is_named(
    checkpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(line(checkpoints[0], out=tmp_path / "file")) == 2
    assert f"cannot write into {tmp_path / 'file'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dropout_samples": 1}, "--dropout-samples: expected at least 2"),
        ({"n_knots": 33}, "--n-knots: expected 1 to 32"),
        ({"reconstructors": ()}, "--reconstructors: expected at least one"),
        ({"budget": 0}, "--budget"),
        ({"foreground": 1.0}, "--foreground: expected at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(CalibrateSettings(), **wrong)  # type: ignore[arg-type]


class Known(Reconstructor):
    """The zero-filled image with an uncertainty of one tenth of its magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        image = measurement.zero_filled
        return Reconstruction(image, image.abs() / 10)


def batch(n_columns: int = 10) -> Batch:
    scans = PhantomDataset(split="val", matrix_size=SIZE)
    protocol = ScanProtocol(n_center_lines=4).scan(scans)
    start, mask = protocol.geometry.center_lines(4), torch.zeros(SIZE[1], dtype=torch.bool)
    mask[(SIZE[1] - n_columns) // 2 :][:n_columns] = True
    log = (mask & ~start).nonzero().squeeze(1)
    return make_batch(protocol, [scans[0]], [Moment(start, log)])


def test_errors_and_uncertainties_are_relative_to_the_whole_image() -> None:
    measured = batch()
    image = measured.measurement.zero_filled
    predicted, error = relative_maps(measured, Known()(measured.measurement))
    scale = np.sqrt(np.mean(np.square(image.abs().double().numpy())))
    assert np.allclose(predicted, image.abs().numpy() / 10 / scale, rtol=1e-4)
    assert np.allclose(error, (image.abs() - measured.target).abs().numpy() / scale, rtol=1e-4)


def test_maps_are_those_of_the_central_part_that_the_target_shows() -> None:
    measured = batch()
    cropped = replace(measured, target=measured.target[:, 4:12, 5:15])
    result = Known()(measured.measurement)
    for whole, part in zip(
        relative_maps(measured, result), relative_maps(cropped, result), strict=True
    ):
        assert np.allclose(whole[:, 4:12, 5:15], part)


def test_a_black_scan_is_no_problem() -> None:
    measured = batch()
    operator = CartesianOperator(measured.measurement.operator.mask)
    black = Measurement.of(0 * measured.measurement.kspace, operator)
    silent = replace(measured, measurement=black, target=0 * measured.target)
    for values in relative_maps(silent, Known()(black)):
        assert np.isfinite(values).all()


def test_scans_are_measured_on_their_foreground_unless_asked(
    checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from activemri.benchmark import calibrate

    settings = CalibrateSettings(
        reconstructors=(checkpoints[0],), matrix=24, max_slices=2, budget=6, n_center_lines=4
    )
    reconstructor = assembled(settings)
    scans, others = calibrate._open(settings)
    assert scans.subjects and not scans.subjects & others.subjects
    cases = collect(reconstructor, scans)
    target = scans.dataset[scans.positions[0]].target
    assert len(cases[0].error) == int((target > 0.1 * target.max()).sum()) < 24 * 24
    assert [case.step for case in cases] == [0, 2, 4, 6] * 2
    whole = collect(reconstructor, scans, pixels=everywhere)
    assert all(len(case.error) == 24 * 24 for case in whole)
    monkeypatch.setattr(calibrate, "_N_PIXELS", 50)
    few = collect(reconstructor, scans)
    assert all(len(case.error) == 50 for case in few)
    assert np.isin(few[0].error, cases[0].error).all()
    again: list[Case] = collect(reconstructor, scans)
    assert all(np.array_equal(a.error, b.error) for a, b in zip(few, again, strict=True))


def test_the_table_says_that_one_subject_has_no_interval() -> None:
    from activemri.benchmark.calibration import measure

    rng = np.random.default_rng(0)
    case = Case("v", 0, "s", 0, rng.random(100), rng.random(100))
    found = measure([case])
    counts = {"subjects": 1, "slices": 1, "moments": 1}
    text = table(
        found, found, name="net", counts={"test": counts, "val": counts}, checkpoint=Path("x")
    )
    assert "No intervals: one subject." in text and "[" not in text
