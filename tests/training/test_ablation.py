"""Ablations of trainings."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from activemri.data.slices import SliceList
from activemri.settings import StudySettings, TrainJointSettings, TrainReconstructorSettings
from activemri.training.ablation import COMPONENTS, Ablation, ablate, variants
from activemri.training.construction import new_reconstructor
from activemri.training.reconstructor import TrainingResult, train_reconstructor
from tests.training.mixture import HeuristicMasks

MakeScans = Callable[..., SliceList]
JOINT = TrainJointSettings(schedule="alternating", network=("blocks=2", "channels=8"))


class FakeTraining:
    """Stands in for trainings: every argument of the network costs a tenth."""

    def __init__(self) -> None:
        self.begun: list[TrainReconstructorSettings] = []
        self.interrupt_at = 0

    def __call__(self, settings: TrainReconstructorSettings) -> TrainingResult:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "settings.json").touch()
        self.begun.append(settings)
        if len(self.begun) == self.interrupt_at:
            raise KeyboardInterrupt
        return TrainingResult(settings.out / "best", 4, 0.9 - len(settings.network) / 10, 0.5)


@pytest.fixture
def fake() -> FakeTraining:
    return FakeTraining()


def asked(out: Path, components: str, **changes: object) -> TrainReconstructorSettings:
    grid = bool(changes.pop("grid", False))
    study = StudySettings(ablate=components, ablate_grid=grid)
    return TrainReconstructorSettings(out=out, study=study, **changes)  # type: ignore[arg-type]


def differences(one: TrainReconstructorSettings) -> dict[str, object]:
    """What is not as in JOINT."""
    return {
        k: v for k, v in vars(one).items() if v != getattr(JOINT, k) and k not in ("out", "study")
    }


def test_every_component_can_be_switched_off_alone() -> None:
    study = StudySettings(ablate=",".join(f"{name}=off" for name in COMPONENTS))
    found = variants(TrainJointSettings(**{**vars(JOINT), "study": study}))
    assert {name: differences(one) for name, one in found.items()} == {
        "full": {},
        "no-adversarial": {"adversarial_weight": 0.0},
        "no-mask-embedding": {"network": (*JOINT.network, "mask_features=0")},
        "no-data-consistency": {"network": (*JOINT.network, "data_consistency=false")},
        "no-uncertainty": {"loss": "l1+ssim"},
        "no-skips": {"network": (*JOINT.network, "skips=false")},
        "no-cascade": {"network": ("channels=8", "blocks=1")},
        "no-augmentation": {"augment": ("none",)},
    }
    for name, one in found.items():
        new_reconstructor(one)
        assert (one.out, one.study) == (JOINT.out / name, StudySettings())


def test_a_grid_switches_off_every_combination(tmp_path: Path) -> None:
    found = variants(asked(tmp_path, "skips=off,cascade=off,mask-embedding", grid=True))
    assert list(found) == [
        "full",
        "no-skips",
        "no-cascade",
        "no-mask-embedding",
        "no-skips+cascade",
        "no-skips+mask-embedding",
        "no-cascade+mask-embedding",
        "no-skips+cascade+mask-embedding",
    ]
    assert found["no-skips+mask-embedding"].network == ("skips=false", "mask_features=0")


@pytest.mark.parametrize(
    ("loss", "without"),
    [
        ("standard", "l1+ssim"),
        ("nll", "mse"),
        ("l1+0.5*nll+2*ssim", "l1+2*ssim"),
    ],
)
def test_without_uncertainty_the_likelihood_is_left_out(
    tmp_path: Path, loss: str, without: str
) -> None:
    found = variants(asked(tmp_path, "uncertainty=off", loss=loss))
    assert found["no-uncertainty"].loss == without


@pytest.mark.parametrize(
    ("components", "changes", "message"),
    [
        ("colour=off", {}, "--ablate: unknown component 'colour'; expected some of adversarial, m"),
        ("", {}, "unknown component ''"),
        ("skips=on", {}, "--ablate: components can only be off; got skips=on"),
        ("skips=off,skips=off", {}, "skips is there twice"),
        (
            "adversarial=off",
            {},
            "cannot switch adversarial off: `train reconstructor` trains without",
        ),
        ("skips=off", {"network": ("skips=false",)}, "cannot switch skips off: it is off already"),
        ("cascade=off", {"network": ("blocks=1",)}, "cascade off: it is off already"),
        ("augmentation=off", {"augment": ("none",)}, "augmentation off: it is off already"),
        ("mask-embedding=off", {"name": "unet"}, "embedding off: the network 'unet' does not have"),
        ("uncertainty=off", {"loss": "l1"}, "uncertainty off: there is no nll in the loss 'l1'"),
        ("uncertainty=off", {"name": "unet"}, "uncertainty off: the network 'unet' gives none"),
    ],
)
def test_components_that_are_not_there_are_refused_before_the_folder_is_made(
    fake: FakeTraining,
    tmp_path: Path,
    components: str,
    changes: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        ablate(asked(tmp_path / "run", components, **changes), train=fake)
    assert not (tmp_path / "run").exists()


def test_the_evaluator_has_no_say_in_a_staged_training() -> None:
    settings = TrainJointSettings(study=StudySettings(ablate="adversarial=off"))
    with pytest.raises(ValueError, match="cannot switch adversarial off: --schedule staged"):
        variants(settings)


def test_the_evaluator_is_left_out_of_a_loss_that_names_it() -> None:
    study = StudySettings(ablate="adversarial=off")
    settings = TrainJointSettings(
        schedule="alternating", study=study, loss="l1+0.3*adversarial", adversarial_weight=0.0
    )
    without = variants(settings)["no-adversarial"]
    assert (without.loss, without.adversarial_weight) == ("l1", 0.0)
    settings = TrainJointSettings(schedule="alternating", study=study, adversarial_weight=0.0)
    with pytest.raises(ValueError, match="cannot switch adversarial off: it is off already"):
        variants(settings)


def test_differences_from_the_full_training_are_written_and_shown(
    fake: FakeTraining, tmp_path: Path
) -> None:
    found = ablate(asked(tmp_path, "skips=off,uncertainty=off"), train=fake)
    rows = [line.split() for line in found.text().splitlines()[2:]]
    assert rows == [
        ["full", "0.5000", "0.9000", "0.0000", "4"],
        ["no-skips", "0.5000", "0.8000", "-0.1000", "4"],
        ["no-uncertainty", "0.5000", "0.9000", "0.0000", "4"],
    ]
    written = json.loads((tmp_path / "ablation.json").read_text())
    assert written["no-skips"]["difference"] == pytest.approx(-0.1)
    assert written["no-skips"]["command"] == "activemri train reconstructor --network skips=false"


def test_an_interrupted_ablation_trains_only_what_is_missing(
    fake: FakeTraining, tmp_path: Path
) -> None:
    fake.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        ablate(asked(tmp_path, "skips=off,cascade=off"), train=fake)
    ablate(asked(tmp_path, "skips=off,cascade=off", resume=True), train=fake)
    assert [(one.out.name, one.resume) for one in fake.begun] == [
        ("full", False),
        ("no-skips", False),
        ("no-skips", True),
        ("no-cascade", False),
    ]


def test_another_ablation_does_not_mix_with_the_one_that_is_there(
    fake: FakeTraining, tmp_path: Path
) -> None:
    ablate(asked(tmp_path, "skips=off"), train=fake)
    with pytest.raises(ValueError, match=r"holds a study already \(ablation\); add --resume"):
        ablate(asked(tmp_path, "skips=off"), train=fake)
    with pytest.raises(ValueError, match="was started with something else"):
        ablate(asked(tmp_path, "cascade=off", resume=True), train=fake)


def test_ablations_train_for_real(make_scans: MakeScans, tmp_path: Path) -> None:
    def train(settings: TrainReconstructorSettings) -> TrainingResult:
        masks = HeuristicMasks(4, budget=6)
        scans = make_scans(["a", "b"]), make_scans(["dd"])
        return train_reconstructor(settings, masks=masks, train=scans[0], validation=scans[1])

    settings = asked(
        tmp_path,
        "skips=off,augmentation=off",
        network=("channels=2", "blocks=2", "residual_blocks=0"),
        max_steps=2,
        n_center_lines=4,
        budget=6,
        lr=1e-2,
    )
    found: Ablation = ablate(settings, train=train)
    assert list(found.results) == ["full", "no-skips", "no-augmentation"]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in found.results]
    assert len({json.loads(lines[-1])["validation_ssim"] for lines in logs}) == 3
    assert len({result.zero_filled_ssim for result in found.results.values()}) == 1
