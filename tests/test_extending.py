"""Parts of a user's own, as the documents have them, in files outside of the package."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

import activemri as am
from activemri import cli
from tests.data.files import write_image

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    TEXT + (DOCS / "geometries.md").read_text(encoding="utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)
FILES = {b.split("\n")[0].removeprefix("# "): b for b in BLOCKS if b.startswith("# ")}
COMMANDS = re.findall(r"^    (activemri .*)$", TEXT, flags=re.MULTILINE)

#: What makes a command of the document short; every one takes a scan protocol.
TINY = "--data scans --matrix-size 16 --budget 4 --n-center-lines 4 --threads 1"
SHORT = {
    "train reconstructor": "--max-steps 2 --validate-every 1 --images 0",
    "train policy --algo ppo": "--learner.max-steps 2 --learner.n-envs 2 --learner.n-steps 4 "
    "--learner.batch 8",
    "train policy": "--learner.max-steps 2",
    "train order": "",
    "benchmark": "--max-slices 1 --max-fit-slices 1",
}


@pytest.fixture
def _own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of the document, and scans of seven subjects, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for number, split in enumerate(("train", "train", "train", "val", "val", "test", "test")):
        about = {"subject_id": f"s{number}", "split": split}
        path = tmp_path / "scans" / f"{number}.h5"
        write_image(path, shape=(1, 16, 16), seed=number, magnitude=False, **about)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.long
@pytest.mark.usefixtures("_own_parts")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_parts_of_ones_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    name = next(name for name in SHORT if words[: len(name.split())] == name.split())
    status = cli.main([*words, *TINY.split(), *SHORT[name].split()])
    assert status == 0, capsys.readouterr().err


@pytest.mark.long
@pytest.mark.usefixtures("_own_parts")
def test_parts_of_ones_own_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    protocol = (
        "--geometry interleaved:interleaved --scanner drifting:Drifting --reward "
        "rewards:squared_gain "
    )
    trained = (
        "train reconstructor --reconstructor damped:Damped --out runs/damped "
        f"{SHORT['train reconstructor']}",
        "train policy --algo search:RandomSearch --learner.max-steps 2 --import damped "
        "--reconstructor runs/damped --out runs/search",
        "benchmark --import damped --reconstructors runs/damped damped:Damped --policies "
        "farthest:farthest_first random runs/search",
    )
    for command in trained:
        assert cli.main(f"{command} {protocol} {TINY}".split()) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("_own_parts")
def test_environments_take_parts_of_ones_own() -> None:
    env = gymnasium.make(
        "activemri:ActiveMRI/HDF5-v0",
        data="scans",
        geometry="interleaved:interleaved",
        lines_per_action=4,
        scanner="drifting:Drifting",
        reconstructor="damped:Damped",
        observation="energy:Energy",
        reward="rewards:squared_gain",
        budget=8,
    )
    observation, info = env.reset(seed=0)
    assert env.action_space == gymnasium.spaces.Discrete(4)
    assert (observation["energy"] > 0).sum() == observation["mask"].sum()
    observation, reward, *_ = env.step(env.action_space.sample(info["action_mask"]))
    assert float(reward) >= 0
    assert (observation["energy"] > 0).sum() == observation["mask"].sum() > info["n_acquired"]


@pytest.mark.usefixtures("_own_parts")
@pytest.mark.parametrize("example", [b for b in BLOCKS if not b.startswith("# ")])
def test_the_other_examples_run(example: str) -> None:
    exec(compile(example, "document", "exec"), {"__name__": "example"})


@pytest.mark.usefixtures("_own_parts")
def test_a_trajectory_of_ones_own_gives_the_image_of_the_target() -> None:
    protocol = am.ScanProtocol(
        matrix_size=32, geometry="spirals:spirals", n_spokes=16, n_center_lines=4, budget=12
    )
    scans = protocol.dataset("val")
    played = am.rollout(protocol, am.make_policy("equispaced"), [scans[0]])
    ssim = played.scores["ssim"][0]
    assert ssim[-1] > 0.9 > ssim[0] + 0.2


@pytest.mark.parametrize("path", ["farthest:nearest", "nowhere:part", "farthest:"])
@pytest.mark.usefixtures("_own_parts")
def test_a_part_that_cannot_be_imported_is_one_line(path: str) -> None:
    with pytest.raises(ValueError, match=path.rstrip(":").split(":")[0]) as caught:
        am.make_policy(path)
    assert "\n" not in str(caught.value)
