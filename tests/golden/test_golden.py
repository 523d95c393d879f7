"""Every id, option, observation, reward and reconstructor does what it did when it was recorded.

``python -m tests.golden.record`` records anew; only a change that is meant justifies it.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.golden import play
from tests.golden.cases import GROUPS, IDS, Case
from tests.golden.files import write_scans

#: What became of recorded names: of infos by themselves, of observations' parts after a dot.
#: None: dropped. Names that are not here are as they were.
RENAMED: dict[str, str | None] = {"budget": "remaining"}
#: Names of infos that may appear where the record has none. Others may not.
ADDED: frozenset[str] = frozenset({"auc"})

#: Relative differences that the rounding of single precision may cause.
SCORES, REWARDS, OBSERVATIONS = 2e-5, 1e-4, 2e-5

ALL = [pytest.param(group, case, id=case.name) for group, cases in GROUPS.items() for case in cases]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Scans"]:
    yield Scans(tmp_path_factory.mktemp("scans"))


class Scans:
    """Folders of scans by kind, written once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, case: Case) -> Path | None:
        if case.files is None:
            return None
        folder = self.root / case.files
        return folder if folder.exists() else write_scans(case.files, folder)


@pytest.mark.parametrize(("group", "case"), ALL)
def test_an_episode_is_as_recorded(group: str, case: Case, scans: Scans) -> None:
    env = play.make(case, scans.of(case))
    for seed, recorded in play.read(group)[case.name].items():
        following = recorded.get("following")
        played = play.play(
            env,
            case,
            int(seed),
            actions=recorded["actions"],
            follow=following is not None,
        )
        where = f"{case.name}, seed {seed}"
        assert played["terminated"] == recorded["terminated"], where
        compare_numbers(played["rewards"], recorded["rewards"], REWARDS, f"{where}: rewards")
        compare_infos(played["infos"], recorded["infos"], where)
        for step, parts in recorded["observations"].items():
            compare_parts(played["observations"][step], parts, f"{where}, step {step}")
        if following is not None:
            after, begun = f"{where}, next episode", played["following"]
            compare_infos(begun["infos"], following["infos"], after)
            compare_parts(begun["observation"], following["observation"], after)


@pytest.mark.parametrize("case", IDS, ids=lambda case: case.name)
def test_a_vector_of_scans_is_as_the_single_ones_were_recorded(case: Case, scans: Scans) -> None:
    env = play.make_vector(case, scans.of(case))
    records = [play.read("ids")[case.name][str(seed)] for seed in case.seeds]
    observation, infos = env.reset(seed=case.seeds[0])  # and the numbers after it
    for row, record in enumerate(records):
        compare_parts(part_of(observation, row), record["observations"]["0"], f"{case.name} {row}")
    for step in range(play.VECTOR_STEPS):
        actions = np.array([record["actions"][step] for record in records])
        observation, rewards, terminated, truncated, infos = env.step(actions)
        assert not terminated.any()
        assert truncated.all() == (step + 1 == play.VECTOR_STEPS)
        for row, record in enumerate(records):
            every = record["rewards"]
            scale = max(abs(one) for one in every)
            assert rewards[row] == pytest.approx(every[step], abs=REWARDS * scale)
    for row, record in enumerate(records):
        where = f"{case.name}, row {row}"
        last = record["steps"].index(play.VECTOR_STEPS)
        ended = {name: v[last] for name, v in record["infos"].items()}
        compare_infos(
            play.columns([info_of(infos["final_info"], row)]),
            {name: [one] for name, one in ended.items() if one is not None},
            where,
        )
        digest = record["observations"][str(play.VECTOR_STEPS)]
        compare_parts(play.digest(infos["final_obs"][row]), digest, where)
        following = record["following"]
        renewed = {n: v for n, v in infos.items() if not n.startswith("final_")}
        compare_infos(play.columns([info_of(renewed, row)]), following["infos"], f"{where}, next")
        compare_parts(part_of(observation, row), following["observation"], f"{where}, next")


def test_every_registered_id_is_recorded() -> None:
    known = {id for id in gymnasium.registry if id.startswith("ActiveMRI/")}
    assert {case.id.removeprefix("activemri:") for case in IDS} <= known


def test_an_illegal_action_that_raises_leaves_the_scan_as_it_is() -> None:
    case = next(case for case in GROUPS["options"] if case.name == "raise")
    env = play.make(case, None)
    recorded = play.read("options")[case.name]["0"]
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(int(np.flatnonzero(info["action_mask"] == 0)[0]))
    rewards = [env.step(action)[1] for action in recorded["actions"]]
    compare_numbers(rewards, recorded["rewards"], REWARDS, "after an error")


def part_of(observation: Any, row: int) -> play.Record:
    """Digest of one scan's observation out of a batch."""
    if isinstance(observation, dict):
        return play.digest({name: part[row] for name, part in observation.items()})
    return play.digest(observation[row])


def info_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One scan's info out of a vector environment's."""
    return {
        name: values[row]
        for name, values in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][row]
    }


def compare_infos(
    played: Mapping[str, list[Any]], recorded: Mapping[str, list[Any]], where: str
) -> None:
    """Every recorded info under its present name, and nothing else but what may be new."""
    names = {name: RENAMED.get(name, name) for name in recorded}
    new = set(played) - set(names.values()) - ADDED
    assert not new, f"{where}: infos that were not recorded: {', '.join(new)}"
    for old, name in names.items():
        if name is None:
            continue
        assert name in played, f"{where}: there is no info {name}, recorded as {old}"
        values = recorded[old]
        pairs = zip(played[name], values, strict=True)
        present = [(a, b) for a, b in pairs if name not in ADDED or b is not None]
        compare_numbers([a for a, _ in present], [b for _, b in present], SCORES, f"{where}: {old}")


def compare_parts(
    played: Mapping[str, play.Record], recorded: Mapping[str, play.Record], where: str
) -> None:
    """Digests of an observation's parts."""
    names = {name: RENAMED.get(f".{name}", name) for name in recorded}
    assert set(played) == {name for name in names.values() if name is not None}, where
    for old, name in names.items():
        if name is None:
            continue
        ours, theirs = played[name], recorded[old]
        assert ours["shape"] == theirs["shape"], f"{where}: shape of {old}"
        assert ours["dtype"] == theirs["dtype"], f"{where}: type of {old}"
        mean, deviation = theirs["numbers"][:2]
        tolerance = OBSERVATIONS * math.hypot(mean, deviation) + rounding(theirs, old)
        difference = np.abs(np.subtract(ours["numbers"], theirs["numbers"])).max()
        assert difference <= tolerance, f"{where}: {old}: {ours['numbers']}, {theirs['numbers']}"


def rounding(digest: play.Record, name: str) -> float:
    """Largest change of a digest if a few pixels of an 8-bit image are rounded the other way."""
    step = 1.0 if digest["dtype"] == "uint8" else 1 / 255 if name == "" else 0.0
    n_values = math.prod(digest["shape"])
    return 3 * step * math.sqrt(max(4, n_values / 4000) / n_values)


def compare_numbers(played: list[Any], recorded: list[Any], relative: float, where: str) -> None:
    """A column: texts and missing values alike, numbers to a share of the largest in the column.

    Every number is also compared to `relative` of itself, where rounding allows it.
    """
    assert len(played) == len(recorded), where
    numbers = [abs(one) for one in recorded if isinstance(one, float) and math.isfinite(one)]
    floor = 0.05 * max(numbers, default=0.0) if relative == SCORES else max(numbers, default=0.0)
    for step, (ours, theirs) in enumerate(zip(played, recorded, strict=True)):
        at = f"{where}, entry {step}: {ours!r}, recorded {theirs!r}"
        if isinstance(theirs, float) and math.isfinite(theirs):
            assert ours == pytest.approx(theirs, abs=relative * max(floor, abs(theirs))), at
        else:
            assert ours == theirs, at
