import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from activemri.agents.learners.imitation import Imitation
from activemri.agents.registry import make_policy
from activemri.data.slices import SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.options import RunOptions
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.reconstruction.unet import UNet
from activemri.training import alternating
from activemri.training.alternating import TrainAlternatingSettings, train_alternating
from tests.envs.scans import scan

LEARNER = Imitation(max_steps=4, states=16, rounds=1, n_tried=4, channels=4, blocks=1)


@pytest.fixture
def settings(tmp_path: Path) -> TrainAlternatingSettings:
    torch.manual_seed(0)
    save_reconstructor(tmp_path / "start", UNet(channels=2, pools=1), info={})
    return TrainAlternatingSettings(
        protocol=ScanProtocol(
            data=SliceList([scan(i) for i in range(4)], "train"),
            reconstructor=str(tmp_path / "start"),
            n_center_lines=2,
            budget=4,
        ),
        run=RunOptions(out=tmp_path / "run"),
        rounds=1,
        learner=LEARNER,
        reconstructor_steps=20,
        lr=1e-2,
        recorded_scans=3,
        validation_scans=2,
    )


def run(settings: TrainAlternatingSettings) -> str:
    validation = SliceList([scan(i) for i in range(10, 12)], "val")
    return str(train_alternating(settings, validation=validation))


def resumed(settings: TrainAlternatingSettings) -> TrainAlternatingSettings:
    return replace(settings, run=replace(settings.run, resume=True))


def test_policy_and_fine_tuned_reconstructor_come_out_together_and_once_only(
    settings: TrainAlternatingSettings,
) -> None:
    text = run(settings)
    assert "fine-tunings" in text
    rounds = json.loads((settings.run.out / "summary.json").read_text())["rounds"]
    assert len(rounds) == 2
    assert make_policy(settings.run.out / "policy").name == "policy"
    before = make_reconstructor(str(settings.protocol.reconstructor)).state_dict()
    after = make_reconstructor(settings.run.out / "reconstructor").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="add --resume to continue"):
        run(settings)
    with pytest.raises(ValueError, match=r"lr: 0.01 then, 0.5 now"):
        run(replace(resumed(settings), lr=0.5))


def test_a_killed_run_goes_on_where_it_was(
    settings: TrainAlternatingSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(settings)
    expected = (settings.run.out / "summary.json").read_text()
    killed = replace(settings, run=RunOptions(out=tmp_path / "killed"))

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(alternating, "train_reconstructor", kill)
        run(killed)
    assert not (killed.run.out / "summary.json").exists()
    log = killed.run.out / "round-0" / "policy" / "log.jsonl"
    written = log.read_text()

    run(resumed(killed))
    assert log.read_text() == written, "the first policy was trained again"
    assert (killed.run.out / "summary.json").read_text() == expected
    (killed.run.out / "summary.json").unlink()
    run(resumed(killed))  # there is nothing left to train
    assert (killed.run.out / "summary.json").read_text() == expected


def test_a_reconstructor_without_weights_is_refused(settings: TrainAlternatingSettings) -> None:
    protocol = replace(settings.protocol, reconstructor="zero-filled")
    with pytest.raises(ValueError, match="has no weights"):
        run(replace(settings, protocol=protocol))
