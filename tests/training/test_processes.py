"""Several processes train as one would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from activemri.training.augmentation import make_augmentation
from activemri.training.batches import TrainingBatches
from tests.training import scans
from tests.training.scans import discs, random_moments, tiny
from tests.training.test_joint import joint
from tests.training.test_joint import train as train_pair

#: Trains in the process that torchrun starts; rank and size of its group go into a file.
CODE = """
from pathlib import Path
import torch
from tests.training.scans import tiny, train
from tests.training.test_joint import joint, train as train_pair
settings = {settings}
result = {train}(settings)
group = torch.distributed
name = f"{{group.get_backend()}}-{{group.get_rank()}}-of-{{group.get_world_size()}}"
Path(settings.run.out, name).write_text(f"{{result.best_score:.12f}}")
group.destroy_process_group()
"""


def torchrun(settings: str, train: str, tmp_path: Path) -> str:
    """Train in two processes; what they say on standard error."""
    script, root = tmp_path / "script.py", Path(__file__).parents[2]
    script.write_text(CODE.format(settings=settings, train=train))
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
            str(script),
        ],
        capture_output=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        text=True,
    )
    return run.stderr if run.returncode else ""


def assert_same_weights(one: Path, two: Path, names: str) -> None:
    """Equal up to rounding, and to what Adam makes of it.

    Adam divides gradients by their own size. Where a gradient is nothing but rounding (a bias
    before a normalisation, or of lines that data consistency replaces), so is the weight; it
    changes no image.
    """
    states = [torch.load(f / "last.pt", weights_only=True) for f in (one, two)]
    trainees = [state["trainee"] for state in states]
    for name in names.split():
        optimizer = trainees[0]["optimizer" if name == "network" else f"{name}_optimizer"]["state"]
        n_compared = n_weights = 0
        for number, (key, weights) in enumerate(trainees[0][name].items()):
            gradient = (optimizer[number]["exp_avg_sq"] * 1000).sqrt()
            real = gradient > 1e-5
            there = trainees[1][name][key]
            assert torch.allclose(weights[real], there[real], atol=1e-5, rtol=1e-5), key
            n_compared += int(real.sum())
            n_weights += weights.numel()
        assert n_compared > 0.7 * n_weights
    assert trainees[0]["step"] == trainees[1]["step"]
    for key in ("best_step", "best_score"):
        assert states[0][key] == pytest.approx(states[1][key], abs=1e-5)


def assert_was_a_world_of_two(folder: Path) -> None:
    said = {p.name: p.read_text() for p in folder.glob("gloo-*")}
    assert set(said) == {"gloo-0-of-2", "gloo-1-of-2"}
    assert len(set(said.values())) == 1  # both know how good the best weights are


CHANGES = "batch_size=4, lr=1e-3, images=1"


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "function", "names"),
    [
        ("tiny({}, " + CHANGES + ")", "train", "network"),
        ("joint({}, max_steps=4, " + CHANGES + ")", "train_pair", "evaluator"),
        (
            "joint({}, max_steps=4, schedule='alternating', " + CHANGES + ")",
            "train_pair",
            "network evaluator",
        ),
    ],
)
def test_two_processes_train_the_networks_that_one_would(
    tmp_path: Path, make: str, function: str, names: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    known: dict[str, Any] = {"tiny": tiny, "joint": joint, "Path": Path}
    settings = eval(make.format(f"Path({str(one)!r})"), known)
    (scans.train if function == "train" else train_pair)(settings)
    assert torchrun(make.format(f"Path({str(two)!r})"), function, tmp_path) == ""
    assert_was_a_world_of_two(two)
    assert_same_weights(one, two, names)
    logs = [(f / "log.jsonl").read_text().count("\n") for f in (one, two)]
    assert logs[0] == logs[1]  # one process validates


@pytest.mark.parametrize("batch_size", [4, 6])
def test_processes_divide_the_scans_of_every_step_among_them(
    batch_size: int,
) -> None:
    slices, moments = discs(["a", "b", "c"]), random_moments()

    def batches(rank: int, n_processes: int) -> TrainingBatches:
        return TrainingBatches(
            slices,
            moments,
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


def test_a_process_without_a_scan_adds_nothing() -> None:
    slices = discs(["a"])
    del slices.slices[1]
    batches = TrainingBatches(
        slices,
        random_moments(),
        batch_size=2,
        seed=0,
        augment=make_augmentation(["none"]),
        rank=1,
        n_processes=2,
    )
    assert batches[0].mean(torch.ones(1)) == 0


def test_a_batch_that_cannot_be_divided_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="--batch-size 6 cannot be divided by the 4 processes"):
        tiny(tmp_path / "run", batch_size=6).check()
    assert not (tmp_path / "run").exists()
