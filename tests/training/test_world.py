"""Several processes train as one would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from activemri.data.slices import SliceList
from activemri.settings import TrainJointSettings, TrainReconstructorSettings
from activemri.training.augmentation import make_augmentation
from activemri.training.batches import InMemory, TrainingBatches
from activemri.training.joint import train_joint
from activemri.training.reconstructor import check_settings, train_reconstructor
from tests.training.mixture import HeuristicMasks

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]

#: Trains in the process that torchrun starts; rank and size of its world go into a file.
CODE = """
import sys; sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import torch
from conftest import discs
from mixture import HeuristicMasks
from activemri.settings import StudySettings, TrainJointSettings, TrainReconstructorSettings
from activemri.training.joint import train_joint
from activemri.training.reconstructor import train_reconstructor
settings = {settings}
train = {train}
result = train(settings, train=discs(['a', 'b', 'c']), validation=discs(['dd']),
               masks=HeuristicMasks(4, budget=6))
world = torch.distributed
name = f"{{world.get_backend()}}-{{world.get_rank()}}-of-{{world.get_world_size()}}"
Path(settings.out, name).write_text(f"{{result.best_ssim:.12f}}")
world.destroy_process_group()
"""


def torchrun(settings: TrainReconstructorSettings, train: str, tmp_path: Path) -> str:
    """Train in two processes; what they say on standard error."""
    kind = type(settings).__name__
    code = CODE.format(settings=f"{kind}(**{vars(settings)!r})", train=train)
    script = tmp_path / "script.py"
    script.write_text(code.replace("PosixPath", "Path"))
    here = Path(__file__).parent
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
            *(str(script), str(here), str(here.parents[1])),
        ],
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    return run.stderr if run.returncode else ""


def assert_same_weights(settings: TrainReconstructorSettings, two: Path, names: str) -> None:
    """Equal up to rounding, and to what Adam makes of it.

    Adam divides gradients by their own size. Where a gradient is nothing but rounding (a bias
    before a normalisation, or of lines that data consistency replaces), so is the weight; it
    changes no image.
    """
    states = [torch.load(f / "last.pt", weights_only=True) for f in (settings.out, two)]
    for name in names.split():
        optimizer = states[0]["optimizer" if name == "network" else f"{name}_optimizer"]["state"]
        n_compared = n_weights = 0
        for number, (key, weights) in enumerate(states[0][name].items()):
            gradient = (optimizer[number]["exp_avg_sq"] * 1000).sqrt()
            real = gradient > 1e-5
            there = states[1][name][key]
            assert torch.allclose(weights[real], there[real], atol=1e-5, rtol=1e-5), key
            n_compared += int(real.sum())
            n_weights += weights.numel()
        assert n_compared > 0.7 * n_weights
    for key in ("step", "best_step", "best_score"):
        assert states[0][key] == pytest.approx(states[1][key], abs=1e-5)


def assert_was_a_world_of_two(folder: Path) -> None:
    said = {p.name: p.read_text() for p in folder.glob("gloo-*")}
    assert set(said) == {"gloo-0-of-2", "gloo-1-of-2"}
    assert len(set(said.values())) == 1  # both know how good the best weights are


@pytest.mark.long
def test_two_processes_train_the_reconstructor_that_one_would(
    make_settings: MakeSettings, make_scans: MakeScans, tmp_path: Path
) -> None:
    settings = make_settings(batch_size=4, lr=1e-3, images=1)
    train_reconstructor(
        settings,
        train=make_scans(["a", "b", "c"]),
        validation=make_scans(["dd"]),
        masks=HeuristicMasks(4, budget=6),
    )
    two = tmp_path / "two"
    again = make_settings(batch_size=4, lr=1e-3, images=1, out=two)
    assert torchrun(again, "train_reconstructor", tmp_path) == ""
    assert_was_a_world_of_two(two)
    assert_same_weights(settings, two, "network")
    logs = [(f / "log.jsonl").read_text().count("\n") for f in (settings.out, two)]
    assert logs == [4, 4]  # one process validates


@pytest.mark.long
@pytest.mark.parametrize(
    ("schedule", "names"),
    [("staged", "evaluator"), ("alternating", "network evaluator")],
)
def test_two_processes_train_the_pair_that_one_would(
    make_settings: MakeSettings,
    make_scans: MakeScans,
    tmp_path: Path,
    schedule: str,
    names: str,
) -> None:
    made = {
        **vars(make_settings(batch_size=4, lr=1e-3, max_steps=4)),
        "schedule": schedule,
        "evaluator": ("channels=2", "layers=2", "line-channels=2"),
    }
    settings = TrainJointSettings(**made)
    train_joint(
        settings,
        train=make_scans(["a", "b", "c"]),
        validation=make_scans(["dd"]),
        masks=HeuristicMasks(4, budget=6),
    )
    two = tmp_path / "two"
    assert torchrun(TrainJointSettings(**{**made, "out": two}), "train_joint", tmp_path) == ""
    assert_was_a_world_of_two(two)
    assert_same_weights(settings, two, names)


@pytest.mark.parametrize("batch_size", [4, 6])
def test_processes_divide_the_scans_of_every_step_among_them(
    make_scans: MakeScans, batch_size: int
) -> None:
    scans, masks = InMemory(make_scans(["a", "b", "c"])), HeuristicMasks(4, budget=6)

    def batches(rank: int, n_processes: int) -> TrainingBatches:
        return TrainingBatches(
            scans,
            masks,
            batch_size=batch_size,
            seed=0,
            augment=make_augmentation(["flip", "phase"]),
            rank=rank,
            n_processes=n_processes,
        )

    for step in range(3):
        whole, parts = batches(0, 1)[step], [batches(rank, 2)[step] for rank in range(2)]
        assert [part.names for part in parts] == [whole.names[0::2], whole.names[1::2]]
        kspace = [part.measurement.kspace for part in parts]
        assert torch.equal(kspace[1], whole.measurement.kspace[1::2])
        values = whole.target.mean(dim=(-2, -1))
        shares = [part.mean(values[rank::2]) for rank, part in enumerate(parts)]
        assert torch.allclose(shares[0] + shares[1], values.mean())


def test_a_process_without_a_scan_adds_nothing(make_scans: MakeScans) -> None:
    scans = make_scans(["a"])
    del scans.slices[1]
    batches = TrainingBatches(
        InMemory(scans),
        HeuristicMasks(4, budget=6),
        batch_size=2,
        seed=0,
        augment=make_augmentation(["none"]),
        rank=1,
        n_processes=2,
    )
    assert batches[0].mean(torch.ones(1)) == 0


def test_a_batch_that_cannot_be_divided_is_refused(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = make_settings(batch_size=6)
    with pytest.raises(ValueError, match="--batch-size 6 cannot be divided by the 4 processes"):
        check_settings(settings)
    assert not settings.out.exists()
