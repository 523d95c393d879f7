"""Speed of everything: the table of ``activemri throughput``, compared with earlier ones.

Times depend on the machine and on what else it does. All ways of doing one thing are therefore
timed in turn on one thread, by the processor's time of that thread, and ratios are what to compare:

* The baseline is the obvious way: :func:`baseline_step`, one image at a time, on the CPU. Of a
  U-Net, the same with the network between crop and scores, as the field's code has it. Of the
  screened oracle, the exact one.
* A copy is one of all bytes that a step touches: of every pixel that is scored the complex image
  (8, read and written, as a copy does), the target, its windows' means and variances (12, read),
  and the 8-bit image (1, written).
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from activemri import __version__, files
from activemri.agents.learners.ddqn import DoubleDQN
from activemri.agents.learners.learner import Problem
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy
from activemri.benchmark.timing import Ways, Work, clock_of, timed
from activemri.data.simulated_coils import with_coils
from activemri.data.slices import Slice, SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.protocol import EnvOptions, ScanProtocol
from activemri.envs.scan import Scan, Truth
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.sensitivity import espirit
from activemri.options import Compute, require_positive
from activemri.progress import Progress
from activemri.reconstruction.image_channels import normalised, scale_and_phase
from activemri.reconstruction.unet import UNet, refine
from activemri.tables import Cell, Table

N_SCANS = 32  # side by side
_BUDGET = 48  # lines of an episode
_N_COILS = 15
_SINGLE = "_single"  # one environment at a time
_WARM_UP = 1500  # actions of the learner before it is timed: it has begun to learn

#: Height and width of k-space, and of the crop that is scored.
_SMALL, _LARGE = ((128, 128), (128, 128)), ((640, 368), (320, 320))
CASES = {"128x128": _SMALL, "640x368": _LARGE}

#: What to reach, by row. At least: so many times as fast as the baseline (`ratio`), and that share
#: of the exact oracle's gain (`gain`). At most: so many copies, or so long.
GOALS: dict[str, dict[str, float]] = {
    "step_128x128": {"ratio": 24, "copies": 2},
    "step_128x128_single": {"ratio": 15},
    "oracle_128x128": {"ratio": 32},
    "step_640x368": {"ratio": 24, "copies": 1},
    "step_640x368_single": {"ratio": 20},
    "oracle_640x368": {"ratio": 45},
    "screened_oracle": {"ratio": 15, "gain": 0.98},
    "decision": {"p99_seconds": 0.006},
    "unet_640x368": {"ratio": 1.6},
    "reset_15_coils": {"seconds": 0.03},
    "espirit_15_coils": {"seconds": 1.6},
    "phantom_cold": {"seconds": 0.06},
    "phantom_warm": {"seconds": 0.005},
    "learner": {"million_seconds": 900},
}
_AT_LEAST = ("ratio", "gain")


@dataclass(frozen=True)
class ThroughputSettings:
    """Measure how fast steps, oracles, networks, resets and learners are, against a baseline."""

    compute: OmitArgPrefixes[Compute] = Compute()
    only: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ()
    """Rows to measure, by the names of --json or by what these begin with, e.g. step oracle; ()
    takes all."""
    seconds: float = 1.0
    """Seconds for each way of each row; what takes longer is done once or twice."""
    scaling: FlagCreatePairsOff[bool] = False
    """Measure as well how a step scales with scans side by side, size, coils and threads."""
    plot: Path | None = None
    """Draw how a step scales, as PNG or SVG."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Replace that picture where it is there already."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""
    compare: Path | None = None
    """File with what --json printed before: say how much faster each row is now."""

    def __post_init__(self) -> None:
        require_positive(seconds=self.seconds)
        if self.plot is not None and self.plot.suffix not in (".png", ".svg"):
            raise ValueError(f"--plot: expected a name that ends in .png or .svg; got {self.plot}")


@dataclass(frozen=True)
class Row:
    """A row of the table: in words, and what sets it up on a device.

    `spread` asks for the slowest calls as well, by the 99th percentile.
    """

    what: str
    ways: Callable[[str], Ways]
    spread: bool = False


def rows() -> dict[str, Row]:
    """All rows by name."""
    found: dict[str, Row] = {}
    for name, sizes in CASES.items():
        many, one = f"step, {N_SCANS} scans side by side, {name}", f"step, one environment, {name}"
        found[f"step_{name}"] = Row(many, partial(steps, *sizes))
        found[f"step_{name}{_SINGLE}"] = Row(one, partial(_single_steps, *sizes))
        found[f"oracle_{name}"] = Row(f"oracle, all columns, {name}", partial(_oracle, *sizes))
    if "screened-oracle" in POLICIES:
        found["screened_oracle"] = Row("screened oracle, cresnet", _screened_oracle)
    return found | {
        "decision": Row("decision of the shipped policy", _decisions, spread=True),
        "cresnet_step": Row(
            "step to decision, cresnet", partial(_decisions, with_step=True), spread=True
        ),
        "unet_640x368": Row("step with a U-Net, 640x368", _unet_steps),
        "reset_15_coils": Row("second reset of a slice, 15 coils, 640x368", _second_reset),
        "espirit_15_coils": Row("coil maps by ESPIRiT, 15 coils, 640x368", _espirit),
        "phantom_cold": Row("first reset of a phantom, cache cold", _first_reset),
        "phantom_warm": Row(
            "first reset of a phantom, cache warm", partial(_first_reset, warm=True)
        ),
        "learner": Row("action that ddqn learns from, 128x128", _learning),
    }


def run_throughput(settings: ThroughputSettings) -> str:
    """Time everything: the text that the command prints.

    Raises:
        ValueError: an unknown row or device, or a file that holds no earlier measurement.
        OSError: a file that cannot be read or written.
    """
    earlier = None if settings.compare is None else _read(settings.compare)
    if settings.plot is not None:
        files.require_free(settings.plot, overwrite=settings.overwrite)
    found = rows()
    for part in settings.only:
        if not any(_is_chosen(name, (part,)) for name in found):
            raise ValueError(f"--only: unknown row {part!r}; expected some of {', '.join(found)}")
    chosen = {name: row for name, row in found.items() if _is_chosen(name, settings.only)}
    table, scaling = dict[str, dict[str, Any]](), None
    with _apart():
        device = str(settings.compute.prepare())
        clock, machine = clock_of(device, torch.get_num_threads()), _machine(device)
        with Progress("throughput", len(chosen), unit="row") as progress:
            for number, (name, row) in enumerate(chosen.items()):
                progress.note(name)
                progress(number)
                times = timed(row.ways(device), settings.seconds, clock, spread=row.spread)
                table[name] = {"what": row.what, **times, **_judged(name, times)}
            progress(len(chosen))
        if settings.scaling or settings.plot is not None:
            from activemri.benchmark import scaling as scales

            scaling = scales.measure(device, settings.seconds)
            if settings.plot is not None:
                figure, kind = scales.draw(scaling, machine["processor"]), settings.plot.suffix[1:]
                with files.replacing(settings.plot) as partial:
                    figure.savefig(partial, format=kind, dpi=150)
    if settings.json:
        content = {**_frames(table), "rows": table, "machine": machine}
        if scaling is not None:
            content["scaling"] = scaling
        if earlier is not None:
            content["faster"] = _faster(earlier, table)
        return json.dumps(content, indent=2)
    parts = [as_table(table, machine)]
    if scaling is not None:
        parts += scales.as_tables(scaling)
    if earlier is not None:
        parts.append(_comparison(earlier, table, settings.compare))
    return "\n\n".join(part.text() for part in parts)


@contextmanager
def _apart() -> Iterator[None]:
    """An empty cache, and threads that nobody else is left with."""
    cache, n_threads = os.environ.get(_CACHE), torch.get_num_threads()
    with TemporaryDirectory(prefix="activemri-") as folder:
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            del os.environ[_CACHE]
            if cache is not None:
                os.environ[_CACHE] = cache


_CACHE = "ACTIVEMRI_CACHE"  # names the folder of what is kept between processes


def baseline_step(scan: Slice, columns: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of the zero-filled reconstruction of a single-coil scan, one image at a time.

    As the field's code does at every step: mask k-space (columns acquired so far, bool (width,)),
    inverse Fourier transform, crop, then scikit-image's SSIM and PSNR and NumPy's MSE and NMSE.
    Tests use it as the slow second way of computing scores.
    """
    return _baseline_scores(scan, _baseline_image(scan, columns))


def _baseline_image(scan: Slice, columns: NDArray[np.bool_]) -> Tensor:
    """The zero-filled image, cropped: complex, of the target's shape."""
    shifted = torch.fft.ifftshift(scan.kspace[0] * torch.from_numpy(columns), dim=(-2, -1))
    image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    return center_crop(image, (scan.target.shape[0], scan.target.shape[1]))


def _baseline_scores(scan: Slice, image: Tensor) -> dict[str, float]:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    magnitude, target = image.abs().numpy(), scan.target.numpy()
    data_range = float(target.max())
    return {
        "ssim": float(structural_similarity(target, magnitude, data_range=data_range)),
        "psnr": float(peak_signal_noise_ratio(target, magnitude, data_range=data_range)),
        "nmse": float(np.linalg.norm(target - magnitude) ** 2 / np.linalg.norm(target) ** 2),
        "mse": float(np.mean((target - magnitude) ** 2)),
    }


def steps(
    shape: tuple[int, int],
    target_shape: tuple[int, int],
    device: str,
    *,
    n: int = N_SCANS,
    n_coils: int = 1,
    reconstructor: str = "zero-filled",
) -> Ways:
    """Steps of the whole environment: observation, reward, scores, infos, autoreset.

    All scans have started once before, and are kept as they start.
    """
    scans = [_scan(shape, target_shape, seed, n_coils) for seed in range(min(n, N_SCANS))]
    env = ActiveMRIVectorEnv(
        num_envs=n,
        data=SliceList(scans),
        n_center_lines=8,
        budget=_BUDGET,
        reconstructor=reconstructor,
        device=device,
    )
    env.reset(seed=0, options={"index": np.arange(n) % len(scans)})
    generator = np.random.default_rng(0)

    def step() -> float:
        draws = generator.random((n, env.episodes.n_actions)) * env.action_masks()
        env.step(draws.argmax(axis=1))
        return n

    baseline = _baseline_steps(scans) if n_coils == 1 else None
    return Ways(step, baseline, _copies(target_shape, n, device))


def _single_steps(shape: tuple[int, int], target_shape: tuple[int, int], device: str) -> Ways:
    """The same of one environment, resets included."""
    scans = [_scan(shape, target_shape, seed) for seed in range(N_SCANS)]
    env = ActiveMRIEnv(data=SliceList(scans), n_center_lines=8, budget=_BUDGET, device=device)
    generator, plan = np.random.default_rng(0), list[int]()
    for index in range(N_SCANS):
        env.reset(seed=0, options={"index": index})

    def step() -> float:
        if not plan:
            _, info = env.reset()
            plan[:] = generator.permutation(np.flatnonzero(info["action_mask"]))[:_BUDGET].tolist()
        env.step(plan.pop())
        return 1

    return Ways(step, _baseline_steps(scans), _copies(target_shape, 1, device))


def _baseline_steps(scans: list[Slice]) -> Work:
    generator = np.random.default_rng(0)

    def step() -> float:
        scan = scans[generator.integers(len(scans))]
        baseline_step(scan, generator.random(scan.shape[1]) < 0.3)
        return 1

    return step


def _copies(shape: tuple[int, int], n: int, device: str) -> Work:
    """Copies of the bytes of n scans that a step touches; see the top of this file."""
    source = torch.ones((n, *shape, 8 + 12 + 1), dtype=torch.uint8, device=device)
    destination = torch.zeros_like(source)

    def copy() -> float:
        destination.copy_(source)
        return n

    return copy


def _oracle(shape: tuple[int, int], target_shape: tuple[int, int], device: str) -> Ways:
    """Decisions of the one-step oracle over all columns; the baseline tries one after the other."""
    scan = _scan(shape, target_shape, 0)
    env = ActiveMRIEnv(data=SliceList([scan]), n_center_lines=8, metrics=("ssim",), device=device)
    env.reset(seed=0)
    every = np.arange(scan.shape[1])
    center = np.isin(every, every[len(every) // 2 - 4 : len(every) // 2 + 4])
    columns = cycle(every)

    def decide() -> float:
        env.simulate(every)
        return 1

    def try_one() -> float:
        baseline_step(scan, center | (every == next(columns)))
        return 1 / len(every)

    return Ways(decide, try_one)


def _screened_oracle(device: str) -> Ways:
    """Decisions of the screened and the exact oracle in the same scans."""
    scan, slices = _phantoms(4, device)
    states = [scan.start([one]) for one in slices]

    def deciding(policy: Policy, chosen: dict[int, Tensor]) -> Work:
        turns = cycle(range(len(states)))

        def decide() -> float:
            turn = next(turns)
            view = replace(states[turn].view, truth=Truth(scan, states[turn]))
            chosen[turn] = policy.act(view, [np.random.default_rng(0)])
            return 1

        return decide

    def gain(turn: int, action: Tensor) -> float:
        after = scan.preview(states[turn], action[:, None], ("ssim",))["ssim"]
        return float(after[0, 0] - states[turn].scores["ssim"][0])

    screened, exact = dict[int, Tensor](), dict[int, Tensor]()

    def facts(_: Mapping[str, float]) -> dict[str, float]:
        both = screened.keys() & exact.keys()
        return {
            "gain": sum(gain(i, screened[i]) for i in both) / sum(gain(i, exact[i]) for i in both)
        }

    return Ways(
        deciding(make_policy("screened-oracle"), screened),
        deciding(make_policy("oracle"), exact),
        facts=facts,
    )


def _decisions(device: str, *, with_step: bool = False) -> Ways:
    """Decisions of the shipped policy in an episode, with or without the steps in between."""
    scan, slices = _phantoms(1, device)
    policy, generators = make_policy("imitation"), [np.random.default_rng(0)]
    state, action = scan.start(slices), torch.zeros(1, dtype=torch.int64)

    def decide() -> float:
        nonlocal action
        action = policy.act(state.view, generators)
        return 1

    def acquire() -> None:
        nonlocal state
        state = scan.acquire(state, action)

    def begin_anew() -> None:
        nonlocal state
        if bool(state.finished.all()):
            state = scan.start(slices)
            decide()

    def advance() -> None:
        begin_anew()
        acquire()
        begin_anew()

    def step() -> float:
        acquire()
        return decide()

    decide()
    return Ways(step, prepare=begin_anew) if with_step else Ways(decide, prepare=advance)


def _unet_steps(device: str) -> Ways:
    """Steps with a U-Net; the baseline crops, then asks the network as it was published."""
    from fastmri.models.unet import Unet

    one, ours = _scan(*_LARGE, 0), UNet()
    published = Unet(2, 2, ours.settings["channels"], ours.pools).eval()
    protocol = ScanProtocol(
        data=SliceList([one]), n_center_lines=8, reconstructor=ours, metrics=("ssim",)
    )
    dataset = protocol.dataset()
    scan = protocol.scan(dataset, device=device)
    state = scan.start([dataset[0]])
    columns = cycle(torch.nonzero(state.view.legal[0]).flatten()[:_BUDGET])
    generator = np.random.default_rng(0)

    def step() -> float:
        nonlocal state
        state = scan.acquire(state, next(columns)[None])
        return 1

    def begin_anew() -> None:
        nonlocal state
        if int(state.view.n_acquired) == 8 + _BUDGET:
            state = scan.start([dataset[0]])

    @torch.no_grad()
    def baseline() -> float:
        image = _baseline_image(one, generator.random(one.shape[1]) < 0.3)[None]
        scale, phase = scale_and_phase(image)
        refined = refine(published, normalised(image, scale, phase), ours.pools)
        _baseline_scores(one, (image + scale * phase * refined)[0])
        return 1

    return Ways(step, baseline, prepare=begin_anew)


def _second_reset(device: str) -> Ways:
    """Resets of a slice of several coils that was scanned before."""
    scans = SliceList([_scan(*_LARGE, 0, _N_COILS)])
    env = ActiveMRIEnv(data=scans, n_center_lines=24, device=device)
    env.reset(seed=0)

    def reset() -> float:
        env.reset()
        return 1

    return Ways(reset)


def _espirit(device: str) -> Ways:
    """Coil maps of one scan, of 24 lines."""
    kspace = _scan(*_LARGE, 0, _N_COILS).kspace[None].to(device)
    middle = kspace.shape[-1] // 2
    mask = torch.zeros((1, 1, kspace.shape[-1]), dtype=torch.bool, device=device)
    mask[..., middle - 12 : middle + 12] = True

    def estimate() -> float:
        espirit(kspace, mask)
        return 1

    return Ways(estimate)


def _first_reset(device: str, *, warm: bool = False) -> Ways:
    """First resets of phantoms, a subject each; warm, those that another environment has made."""

    def made() -> ActiveMRIEnv:
        return ActiveMRIEnv(data="phantom", device=device)

    env = made()
    infos = [env.episodes.dataset.describe(i) for i in range(len(env.episodes.dataset))]
    first = list({info.subject: place for place, info in enumerate(infos)}.values())
    if warm:
        first = first[-8:]
        for place in first:
            env.reset(options={"index": place})
    places = cycle(first)

    def begin_anew() -> None:
        nonlocal env
        env = made()
        if not warm:
            shutil.rmtree(os.environ[_CACHE], ignore_errors=True)

    def reset() -> float:
        env.reset(options={"index": next(places)})
        return 1

    return Ways(reset, prepare=begin_anew)


def _learning(device: str) -> Ways:
    """Actions of a learner that has begun to learn, on features of zero-filled lines.

    Its settings are those of docs/results.md, "A million actions".
    """
    scans = SliceList([_scan(*_SMALL, seed) for seed in range(N_SCANS)])
    protocol = EnvOptions(data=scans, n_center_lines=8, budget=_BUDGET, device=device)
    settings = DoubleDQN(
        n_envs=64, updates=1, channels=16, blocks=1, cache_mb=200, target_every=2000
    )
    learner = settings.start(Problem(protocol))
    learner.learn(_WARM_UP)

    def act() -> float:
        before = learner.step
        learner.learn(64)
        return learner.step - before

    return Ways(act, facts=lambda times: {"million_seconds": 1e6 * times["seconds"]})


def _phantoms(n: int, device: str) -> tuple[Scan, list[Slice]]:
    """Phantoms of as many subjects, and what scans them with cresnet."""
    protocol = ScanProtocol(data="phantom", split="val", budget=24, reconstructor="cresnet")
    dataset = protocol.dataset()
    places = np.linspace(0, len(dataset), n, endpoint=False, dtype=int).tolist()
    return protocol.lean("ssim").scan(dataset, device=device), [dataset[i] for i in places]


def _scan(
    shape: tuple[int, int], target_shape: tuple[int, int], seed: int, n_coils: int = 1
) -> Slice:
    """An ellipse with stripes and noise: what is in the image does not change the time."""
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    image = ((down / 0.6) ** 2 + (right / 0.8) ** 2 < 1) * (1 + 0.3 * torch.sin(20 * right + seed))
    image = image + 0.02 * torch.randn(shape, generator=generator)
    kspace = fourier.fft2(image.to(torch.complex64))
    target = center_crop(fourier.ifft2(kspace).abs(), target_shape).clone()
    scan = Slice(
        kspace[None], target, f"scan-{seed}", 0, f"subject-{seed}", volume_max=float(target.max())
    )
    return scan if n_coils == 1 else with_coils(scan, n_coils, largest=scan.volume_max)


def _is_chosen(name: str, only: Collection[str]) -> bool:
    return not only or any(name == part or name.startswith(f"{part}_") for part in only)


def _judged(name: str, times: Mapping[str, float]) -> dict[str, Any]:
    """The goals of a row, and whether all are met."""
    if name not in GOALS:
        return {}
    goals = GOALS[name]
    met = [
        times[part] >= goal if part in _AT_LEAST else times[part] <= goal
        for part, goal in goals.items()
    ]
    return {"goals": goals, "met": all(met)}


def _frames(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Ratios and rates of steps and oracles by row."""
    frames = {name: row for name, row in table.items() if name.startswith(("step_", "oracle_"))}
    ratios = {name: round(row["ratio"], 2) for name, row in frames.items()}
    return {
        "ratios": {n: ratio for n, ratio in ratios.items() if not n.endswith(_SINGLE)},
        "ratios_of_single_environments": {
            n.removesuffix(_SINGLE): ratio for n, ratio in ratios.items() if n.endswith(_SINGLE)
        },
        "frames_per_s": {n: round(1 / row["seconds"], 1) for n, row in frames.items()},
        "baseline_per_s": {n: round(1 / row["baseline_seconds"], 1) for n, row in frames.items()},
    }


def _machine(device: str) -> dict[str, Any]:
    """Properties of the machine that times depend on."""
    processor = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        processor = torch.cuda.get_device_name(device)
    elif (cpuinfo := Path("/proc/cpuinfo")).is_file():
        named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        processor = processor if named is None else named[1]
    return {
        "processor": processor,
        "device": device,
        "threads": torch.get_num_threads(),
        "activemri": __version__,
        "torch": torch.__version__,
    }


def as_table(table: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> Table:
    """Rows and machine, as --json gives them, as a table for people."""
    lines, notes = list[Sequence[object]](), list[str]()
    for row in table.values():
        goals = [
            _GOAL_WORDS.get(part, "{}").format(_amount(part, goal))
            for part, goal in row.get("goals", {}).items()
        ]
        lines.append(
            (
                row["what"],
                *(Cell(_amount(part, row.get(part))) for part in _COLUMNS),
                ", ".join(goals),
                {True: "yes", False: "no", None: ""}[row.get("met")],
            )
        )
        notes += [f"{row['what']}: {_amount(part, row[part])}" for part in _FACTS if part in row]
    threads = machine["threads"]
    title = f"{machine['processor']}, {threads} thread{'' if threads == 1 else 's'}"
    return Table(("", *_COLUMNS.values(), "goal", "met"), lines, title=title, notes=notes)


_COLUMNS = {
    "seconds": "time",
    "p99_seconds": "99 %",
    "baseline_seconds": "baseline",
    "ratio": "ratio",
    "copies": "copies",
}
_FACTS = ("gain", "million_seconds")
_GOAL_WORDS = {"copies": "copies {}", "p99_seconds": "99 % {}"}


def _amount(part: str, value: float | None) -> str:
    """A number of a row in words."""
    if value is None:
        return "-"
    if part == "ratio":
        return f"{value:.3g}x"
    if part == "copies":
        return f"{value:.2g}"
    if part == "gain":
        return f"{value:.1%} of the exact gain"
    if part == "million_seconds":
        return f"10^6 in {duration(value)}"
    return duration(value)


def duration(seconds: float) -> str:
    """Seconds in their usual unit, to three digits."""
    for unit, name in ((60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= unit and (unit < 60 or seconds >= 120):
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Times by row of an earlier measurement, of the first edition's command as well."""
    try:
        content = files.read_json(path)
        found = content.get("rows")
        if found is None:
            found = {name: {"seconds": 1 / rate} for name, rate in content["frames_per_s"].items()}
        kinds = ("seconds", "baseline_seconds")
        times = {n: {k: float(row[k]) for k in kinds if k in row} for n, row in found.items()}
        if not all(
            "seconds" in t and all(1e-12 < x < 1e12 for x in t.values()) for t in times.values()
        ):
            raise ValueError("expected seconds above 0")
        return times
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(
            f"--compare {path}: expected what 'activemri throughput --json' printed; it is "
            f"something else ({type(error).__name__}: {error!s:.200})"
        ) from error


def _faster(
    earlier: Mapping[str, Mapping[str, float]], table: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Gain in speed of each row that was measured both times."""
    return {n: earlier[n]["seconds"] / row["seconds"] for n, row in table.items() if n in earlier}


def _comparison(
    earlier: Mapping[str, Mapping[str, float]],
    table: Mapping[str, Mapping[str, Any]],
    path: Path | None,
) -> Table:
    """The same as a table. How much faster the baseline is tells how the machine has changed."""
    lines: list[Sequence[object]] = []
    for name, ratio in _faster(earlier, table).items():
        before, now = earlier[name], table[name]
        machine = None
        if "baseline_seconds" in before and "baseline_seconds" in now:
            machine = before["baseline_seconds"] / now["baseline_seconds"]
        times = (duration(one["seconds"]) for one in (before, now))
        factors = (_amount("ratio", factor) for factor in (ratio, machine))
        lines.append((now["what"], *map(Cell, times), *map(Cell, factors)))
    notes = []
    for where, names in (
        (f"in {path} alone", [n for n in earlier if n not in table]),
        ("now alone", [n for n in table if n not in earlier]),
    ):
        if names:
            notes.append(f"{where}: {', '.join(names)}")
    header = ("", "before", "now", "faster", "baseline faster")
    return Table(header, lines, title=f"Compared with {path}", notes=notes)
