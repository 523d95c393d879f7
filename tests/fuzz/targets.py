"""Targets of the fuzz: files that are sound, and a use of them that fails well where they are not.

Targets follow from what is registered: every reader with its files of the contract tests, every
reconstructor and network with a checkpoint of its own, and each other kind of file by its module.
"""

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from activemri import evaluator, files
from activemri.agents.learners.demonstrations import (
    Demonstrations,
    collect,
    outwards,
    read_demonstrations,
    write_demonstrations,
)
from activemri.agents.learners.learner import Problem
from activemri.agents.networks import NETWORKS, LearnedPolicy, load_policy
from activemri.agents.order import Order
from activemri.agents.policy import Policy
from activemri.agents.rollout import rollout
from activemri.benchmark import learning_curves, throughput
from activemri.benchmark import run as benchmark
from activemri.benchmark.plan import Shard
from activemri.benchmark.savings import curves_of
from activemri.data import conversion
from activemri.data.cache import FOLDER, Arrays, cached
from activemri.data.formats.registry import all_readers
from activemri.data.regions import Findings, read_findings, region_of, upright
from activemri.data.slices import SliceDataset, SliceList
from activemri.data.sources import open_dataset
from activemri.data.splits import read_split_file
from activemri.envs.protocol import EnvOptions
from activemri.envs.scan import Scan, State
from activemri.mri.geometry import make_geometry
from activemri.options import RunOptions
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import (
    RECONSTRUCTORS,
    WRAPPERS,
    make_reconstructor,
    rebuild,
    save_reconstructor,
)
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.stopping.features import scan_features
from activemri.stopping.predictor import fit_predictor
from activemri.stopping.rule import StoppingRule
from activemri.training import sweep
from activemri.training.folder import RunFolder
from activemri.training.loop import Trained
from tests.agents.test_networks import FRAME, KINDS
from tests.data.files import write_kspace
from tests.data.test_readers import WRITERS
from tests.envs.scans import scan as random_scan
from tests.reconstruction.test_contract import SETTINGS

Files = Mapping[str, bytes]  # by the path below a folder
SHAPE = FRAME.shape
ZERO_FILLED = ZeroFilled()


class DefectError(Exception):
    """Something that should have been refused, and was not."""


@dataclass(frozen=True, eq=False)
class Target:
    """A kind of file.

    Attributes:
        name: as `--target` takes it.
        write: each writes one set of sound files below a folder.
        load: loads what is in a folder; a refusal names the file.
        use: uses it once.
        covers: modules that read such files.
        seal: makes sums that go with files fit them again, which else would hide what lies behind.
    """

    name: str
    write: Sequence[Callable[[Path], object]]
    load: Callable[[Path], Any]
    use: Callable[[Any], object]
    covers: Sequence[str]
    seal: Callable[[Files], Files] | None = None

    @cache  # noqa: B019  # targets live as long as the process
    def seeds(self) -> tuple[Files, ...]:
        """The sound files."""
        found = []
        for write in self.write:
            with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
                torch.manual_seed(0)  # of the first weights of networks
                root = Path(folder)
                write(root)
                paths = sorted(path for path in root.rglob("*") if path.is_file())
                found.append({str(p.relative_to(root)): p.read_bytes() for p in paths})
        return tuple(found)


def require_finite(**results: Any) -> None:
    for name, value in results.items():
        values = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
        if not bool(torch.isfinite(values).all()):
            raise DefectError("not finite", name)


def play(
    scans: SliceDataset, reconstructor: Reconstructor = ZERO_FILLED, policy: Policy | None = None
) -> State:
    """One step of the first scan, in which all that comes out must be finite."""
    geometry = make_geometry("columns", scans.shape)
    scan = Scan(geometry, reconstructor, budget=2, n_center_lines=2, metrics=("ssim", "nmse"))
    state = scan.start([scans[0]])
    view = state.view
    if bool(view.legal.any()):
        action = view.legal.long().argmax(dim=1)
        if policy is not None:
            action = policy.act(view, [np.random.default_rng(0)])
        state = scan.acquire(state, action)
    require_finite(**state.scores, image=state.view.reconstruction.image)
    return state


@cache
def small_scans() -> SliceList:
    return SliceList([random_scan(shape=SHAPE)], "small")


def load_scans(folder: Path) -> SliceDataset:
    return open_dataset(folder, split="all")


def use_scans(scans: SliceDataset) -> None:
    try:
        play(scans, ZERO_FILLED)
    except (ValueError, OSError) as error:
        raise DefectError("passes the survey and is refused later", str(error)) from error


def readers() -> list[Target]:
    found = []
    for reader in all_readers():
        module, suffix = type(reader).__module__, reader.container.suffixes[0]

        def write(folder: Path, write: Callable[[Path], object], suffix: str = suffix) -> None:
            write(folder / f"scan{suffix}")

        makers = [partial(write, write=one) for one in WRITERS.get(reader.name, {}).values()]
        found.append(
            Target(reader.name, makers, load_scans, use_scans, (module, "activemri.data.readers"))
        )
    return found


OF_RECONSTRUCTORS = tuple(
    f"activemri.{name}"
    for name in ("checkpoints", "reconstruction.registry", "training.construction")
)
#: Arguments of networks that make them small, by name.
SMALL = {
    **{"channels": 2, "pools": 1, "blocks": 1, "layers": 2, "iterations": 1, "cg_steps": 2},
    **{"cascades": 1, "turns": 1, "n_steps": 2, "n_samples": 2, "steps": 2, "dual_steps": 1},
}


def reconstructors() -> list[Target]:
    def write(folder: Path, kind: str, made_by: Callable[..., Any]) -> None:
        known = inspect.signature(made_by).parameters
        settings = {name: value for name, value in SMALL.items() if name in known}
        settings |= SETTINGS.get(kind, {}) | ({"channels": 8} if kind == "diffusion" else {})
        made = rebuild({"kind": kind, "settings": settings})
        save_reconstructor(folder / "best", made, info={"step": 1})

    def load(folder: Path) -> Reconstructor:
        return make_reconstructor(folder / "best")

    return [
        Target(
            f"checkpoint of {kind}",
            [partial(write, kind=kind, made_by=made_by)],
            load,
            partial(play, small_scans()),
            OF_RECONSTRUCTORS,
            seal=sealed,
        )
        for kind, made_by in (RECONSTRUCTORS | WRAPPERS).items()
    ]


def sealed(given: Files) -> Files:
    """A checkpoint whose sum is that of its weights, if its JSON can be changed that way."""
    try:
        described = json.loads(given["best.json"])
        described["sha256"] = files.digest(given["best.safetensors"])
        return {**given, "best.json": json.dumps(described).encode()}
    except (ValueError, TypeError, RecursionError):
        return given


def policies() -> list[Target]:
    def write(folder: Path, kind: str) -> None:
        LearnedPolicy(KINDS[kind](), "learned", FRAME).save(folder / "best", info={"step": 1})

    def load(folder: Path) -> LearnedPolicy:
        return load_policy(folder / "best")

    def use(policy: LearnedPolicy) -> None:
        state = play(small_scans(), ZERO_FILLED, policy)
        require_finite(score=policy.scores(state.view))

    return [
        Target(
            f"policy of {kind}",
            [partial(write, kind=kind)],
            load,
            use,
            ("activemri.checkpoints", "activemri.agents.networks"),
            seal=sealed,
        )
        for kind in NETWORKS
        if kind in KINDS
    ]


def _evaluator() -> Target:
    def write(folder: Path) -> None:
        made = evaluator.Evaluator(SHAPE[1], channels=2, layers=2, line_channels=2)
        evaluator.save_evaluator(folder / "best", made, info={"step": 1})

    def load(folder: Path) -> evaluator.Evaluator:
        return evaluator.make_evaluator(folder / "best")

    def use(made: evaluator.Evaluator) -> None:
        state = play(small_scans(), ZERO_FILLED)
        require_finite(scores=made(state.view.reconstruction.image, state.view.mask))

    return Target("evaluator", [write], load, use, ("activemri.evaluator",), seal=sealed)


def _order() -> Target:
    def write(folder: Path) -> None:
        facts = ("columns", 1, SHAPE, "ssim", "ZeroFilled", "small", 2)
        Order("lbcs", tuple(range(SHAPE[1])), 5, *facts).save(folder / "order")

    def load(folder: Path) -> Order:
        order = Order.load(folder / "order.json")
        order.save(folder / "again")
        return order

    def use(order: Order) -> None:
        play(small_scans(), ZERO_FILLED, order)

    return Target("order", [write], load, use, ("activemri.agents.order",))


def _rule() -> Target:
    def write(folder: Path, kind: str) -> None:
        state = play(small_scans(), ZERO_FILLED)
        seen = scan_features(state.view, None)
        features = {name: np.linspace(0, 1, 9) for name in seen}
        if kind == "knots":
            features = {"expected_ssim": np.linspace(0, 1, 9)}
        fit = "uncertainty" if kind == "knots" else "regression"
        predictor = fit_predictor(fit, features, np.linspace(0, 1, 9), metric="ssim", target=0.8)
        facts = (0.8, 0.9, 0.1, "subject", 6, "random", "ZeroFilled", "small", 2, 8)
        StoppingRule(predictor, *facts).save(folder / "rule")

    def load(folder: Path) -> StoppingRule:
        rule = StoppingRule.load(folder / "rule.json")
        rule.save(folder / "again")
        return rule

    def use(rule: StoppingRule) -> None:
        features = {name: np.full((2, 3), 0.5) for name in rule.predictor.features}
        predicted = rule.predictor(features)
        require_finite(predicted=predicted)
        rule.stops(predicted)

    makers = [partial(write, kind=kind) for kind in ("knots", "regression")]
    covers = ("activemri.stopping.rule", "activemri.stopping.predictor")
    return Target("rule", makers, load, use, covers)


def _split() -> Target:
    splits = {f"subject-{n}": ("train", "val", "test")[n % 3] for n in range(6)}

    def write_json(folder: Path) -> None:
        files.write_json(folder / "splits.json", splits)

    def write_csv(folder: Path) -> None:
        rows = [",".join(pair) for pair in splits.items()]
        (folder / "splits.csv").write_text("\n".join(["subject,split", *rows]) + "\n")

    def load(folder: Path) -> dict[str, str]:
        (path,) = folder.iterdir()
        return read_split_file(path)

    def use(found: dict[str, str]) -> None:
        if not all(isinstance(word, str) for pair in found.items() for word in pair):
            raise DefectError("no text", str(found))

    return Target("split", [write_json, write_csv], load, use, ("activemri.data.splits",))


def _annotations() -> Target:
    def write(folder: Path) -> None:
        (folder / "boxes.csv").write_text(
            "file,slice,study_level,x,y,width,height,label\n"
            "scan,0,No,2,3,4,5,lesion\nscan,1,No,0,0,2,2,lesion\nscan,,Yes,,,,,study\n"
        )

    def load(folder: Path) -> Findings:
        return read_findings(folder / "boxes.csv")

    def use(found: Findings) -> None:
        for boxes in found.values():
            region_of([upright(box, SHAPE[0]) for box in boxes], SHAPE)

    return Target("annotations", [write], load, use, ("activemri.data.regions",))


@cache
def _problem() -> Problem:
    protocol = EnvOptions(data=small_scans(), n_center_lines=2, budget=5, reward="delta_ssim")
    return Problem(protocol, seed=3, name="small")


def _demonstrations() -> Target:
    def write(folder: Path) -> None:
        generator = np.random.default_rng(0)
        found = collect(_problem(), 4, priority=outwards, generator=generator, n_tried=3)
        write_demonstrations(folder / "file.parquet", found, _problem())

    def load(folder: Path) -> Demonstrations:
        return read_demonstrations(folder / "file.parquet", _problem())

    def use(found: Demonstrations) -> None:
        tried = found.tried >= 0
        require_finite(
            score=found.score,
            scores=found.scores[tried],
            prospect=found.prospect,
            features=found.features,
        )
        if bool((found.action < 0).any()):
            raise DefectError("a state without an action")

    module = "activemri.agents.learners.demonstrations"
    return Target("demonstrations", [write], load, use, (module,))


def _curves() -> Target:
    def write(folder: Path) -> None:
        files.write_json(folder / "settings.json", {"algo": "ddqn", "seed": 1, "lr": 1e-3})
        entry = '{{"training": "policy", "step": {}, "validation_final": 0.{}}}\n'
        (folder / "log.jsonl").write_text("".join(entry.format(n, n) for n in (10, 20, 30)))

    def load(folder: Path) -> tuple[Path, Any, learning_curves.Entries]:
        return folder, *learning_curves.read_run(folder)

    def use(run: tuple[Path, Any, learning_curves.Entries]) -> None:
        folder, settings, entries = run
        learning_curves.grouped({folder: settings})
        curve = learning_curves.learning_curve({folder: entries}, "validation_final", name="all")
        require_finite(iqm=curve.iqm, steps=curve.steps)

    return Target("log of a training", [write], load, use, ("activemri.benchmark.learning_curves",))


def _run_folder() -> Target:
    settings = {"algo": "ddqn", "seed": 1}

    def write(folder: Path) -> None:
        run = RunFolder(RunOptions(out=folder), "train policy")
        with run.open(settings):
            run.save({"step": 3, "network": {"weight": torch.ones(3, 3)}, "names": ["a"]})
            run.log({"training": "policy", "step": 3, "validation_final": 0.5})

    def load(folder: Path) -> None:
        run = RunFolder(RunOptions(out=folder, resume=True), "train policy")
        with run.open(settings):
            run.log({"training": "policy", "step": 4, "validation_final": 0.5})

    return Target("folder of a training", [write], load, bool, ("activemri.training.folder",))


def _result() -> Target:
    def write(folder: Path) -> None:
        numbers = {"best_step": 3, "best_score": 0.5, "score": "ssim", "baseline": 0.3}
        files.write_json(folder / "result.json", numbers)

    def use(found: Trained) -> None:
        require_finite(score=[found.best_step, found.best_score, found.baseline or 0.0])

    covers = ("activemri.training.sweep",)
    return Target("result of a training", [write], sweep.result_in, use, covers)


def _rows() -> Target:
    shard = Shard("zero-filled", "order", 0, (0,))
    scans = [small_scans().describe(0)]

    def write(folder: Path) -> None:
        geometry = make_geometry("columns", SHAPE)
        scan = Scan(geometry, ZERO_FILLED, budget=3, n_center_lines=2, metrics=("ssim", "nmse"))
        facts = ("columns", 1, SHAPE, "ssim", "ZeroFilled", "small", 2)
        order = Order("order", tuple(range(SHAPE[1])), 5, *facts)
        episodes = rollout(scan, order, small_scans().slices, seed=0)
        rows = benchmark.long_rows(episodes, shard, metric="ssim")
        benchmark._write_parquet(rows, folder / "part.parquet")

    def load(folder: Path) -> Any:
        return benchmark.read_rows(folder / "part.parquet", shard, scans)

    def use(rows: Any) -> None:
        require_finite(**curves_of(rows, scans).scores, value=rows["value"])

    return Target("part of a benchmark", [write], load, use, ("activemri.benchmark.run",))


def _speed() -> Target:
    def write(folder: Path) -> None:
        rows = {"step": {"seconds": 0.01, "baseline_seconds": 0.1, "what": "a step"}}
        files.write_json(folder / "speed.json", {"rows": rows})

    def load(folder: Path) -> dict[str, dict[str, float]]:
        return throughput._read(folder / "speed.json")

    def use(found: dict[str, dict[str, float]]) -> None:
        table = {name: {**row, "what": name} for name, row in found.items()}
        require_finite(ratio=list(throughput._faster(found, table).values()))
        throughput._comparison(found, table, Path("speed.json")).text()

    return Target("speed", [write], load, use, ("activemri.benchmark.throughput",))


def targets() -> dict[str, Target]:
    """Every target by name."""
    alone = (_evaluator, _order, _rule, _split, _annotations, _demonstrations, _curves)
    others = (_run_folder, _result, _rows, _speed, _converted, *OF_CACHES)
    made = [*readers(), *reconstructors(), *policies(), *(make() for make in (*alone, *others))]
    return {target.name: target for target in made}


def _converted() -> Target:
    origin: conversion.Origin = {"source": "scan.dcm", "bytes": 10}

    def write(folder: Path) -> None:
        facts = json.dumps(origin)
        write_kspace(folder / "scan.h5", converted_from=facts, processing='["a", "b"]')

    def load(folder: Path) -> bool:
        return conversion._is_converted(folder / "scan.h5", origin, overwrite=True)

    return Target("converted scan", [write], load, bool, ("activemri.data.conversion",))


def _made() -> Target:
    """Arrays that took long to make are made anew where they are damaged."""

    def make() -> dict[str, Any]:
        return {"values": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"])}

    def load(folder: Path) -> Arrays:
        with own_cache(folder):
            return cached("made", "settings", make)

    def use(found: Arrays) -> None:
        for name, wanted in make().items():
            if not np.array_equal(found[name], wanted):
                raise DefectError("another result", name)

    return Target("cache of arrays", [load], load, use, ("activemri.data.cache",))


def _index() -> Target:
    """An index that is damaged is made anew."""

    def scan(folder: Path) -> None:
        WRITERS["hdf5"]["k-space"](folder / "scan.h5")

    def opened(folder: Path) -> SliceDataset:
        os.utime(folder / "scan.h5", (0, 0))  # as the index knows it
        with own_cache(folder):
            return load_scans(folder)

    def write(folder: Path) -> None:
        scan(folder)
        opened(folder)
        for name, own in names(folder).items():
            (folder / own).rename(folder / name)
        (folder / "scan.h5").unlink()

    def names(folder: Path) -> dict[str, str]:
        """Names of indices hold the place of the folder; here are those that do not."""
        made = folder.glob("index-*.json")
        return {
            ("headers" if '"reader"' in p.read_text() else "samples") + ".json": p.name
            for p in made
        }

    @cache
    def names_in(folder: Path) -> dict[str, str]:
        with tempfile.TemporaryDirectory(dir=folder.parent) as kept:
            for path in folder.iterdir():
                path.rename(Path(kept) / path.name)
            scan(folder)
            opened(folder)
            found = names(folder)
            for path in folder.iterdir():
                path.unlink()
            for path in Path(kept).iterdir():
                path.rename(folder / path.name)
        return found

    def load(folder: Path) -> SliceDataset:
        for name, own in names_in(folder).items():
            (folder / name).rename(folder / own)
        scan(folder)
        return opened(folder)

    covers = ("activemri.data.index", "activemri.data.volumes")
    return Target("cache of an index", [write], load, play, covers)


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Caches of this process are in a folder."""
    with mock.patch.dict(os.environ, {FOLDER: str(folder)}):
        yield


OF_CACHES: tuple[Callable[[], Target], ...] = (_made, _index)
