"""Frames of the environment a second, against a baseline: the obvious way of writing a step.

Absolute rates depend on the machine and on what else it does; the two ways are timed in turn,
so their ratio is what to compare.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import FlagCreatePairsOff

from activemri.data.slices import Slice, SliceList
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.options import require_positive

N_SCANS = 32  # side by side
_SINGLE = "_single"  # one environment at a time: bound by Python, not by arithmetic
_ROUNDS = 7  # each way is timed so often, in turn; the median ratio counts


@dataclass(frozen=True)
class Case:
    """Scans of one size.

    Attributes:
        name: as in the output.
        shape: height and width of k-space.
        target_shape: of the crop that is scored.
    """

    name: str
    shape: tuple[int, int]
    target_shape: tuple[int, int]


CASES = (
    Case("128x128", (128, 128), (128, 128)),
    Case("640x368", (640, 368), (320, 320)),
)


@dataclass(frozen=True)
class Comparison:
    """Frames (or decisions) a second, ours and the baseline, and the median of their ratios."""

    ours: float
    baseline: float
    ratio: float


@dataclass(frozen=True)
class ThroughputSettings:
    """Measure environment frames a second against a baseline of one image at a time."""

    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object with "ratios" and "frames_per_s" instead of a table."""
    seconds: float = 2.0
    """Seconds of each measurement."""

    def __post_init__(self) -> None:
        require_positive(seconds=self.seconds)


def run_throughput(settings: ThroughputSettings) -> str:
    """Time everything on one thread: the text that the command prints."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = dict(_measure(settings.seconds))
    finally:
        torch.set_num_threads(n_threads)
    return _as_json(results) if settings.json else _as_table(results)


def baseline_step(scan: Slice, columns: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of the zero-filled reconstruction of a single-coil scan, one image at a time.

    As the field's code does at every step: mask k-space, inverse Fourier transform, crop, then
    scikit-image's SSIM and PSNR and NumPy's MSE and NMSE. Tests use it as the slow second way of
    computing scores.

    Args:
        scan: fully sampled.
        columns: columns acquired so far, bool (width,).

    Returns:
        ssim, psnr, nmse and mse.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    image = _inverse_transform(scan.kspace[0] * torch.from_numpy(columns))
    height, width = scan.target.shape
    magnitude = center_crop(image.abs(), (height, width)).numpy()
    target = scan.target.numpy()
    data_range = float(target.max())
    return {
        "ssim": float(structural_similarity(target, magnitude, data_range=data_range)),
        "psnr": float(peak_signal_noise_ratio(target, magnitude, data_range=data_range)),
        "nmse": float(np.linalg.norm(target - magnitude) ** 2 / np.linalg.norm(target) ** 2),
        "mse": float(np.mean((target - magnitude) ** 2)),
    }


def baseline_trials(scan: Slice, columns: NDArray[np.bool_], actions: Sequence[int]) -> list[float]:
    """SSIM after each of several actions, one step after the other: a one-step oracle's loop."""
    scores = []
    for action in actions:
        trial = columns.copy()
        trial[action] = True
        scores.append(baseline_step(scan, trial)["ssim"])
    return scores


def _inverse_transform(kspace: Tensor) -> Tensor:
    """Centred orthonormal inverse Fourier transform."""
    shifted = torch.fft.ifftshift(kspace, dim=(-2, -1))
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    return image


def _measure(seconds: float) -> Iterator[tuple[str, Comparison]]:
    for case in CASES:
        scans = [_scan(case, seed) for seed in range(N_SCANS)]
        for n_envs in (N_SCANS, 1):
            suffix = "" if n_envs == N_SCANS else _SINGLE
            yield (
                f"step_{case.name}{suffix}",
                _compare(_vector_steps(scans[:n_envs]), _baseline_steps(scans), seconds),
            )
        yield (
            f"oracle_{case.name}",
            _compare(_oracle(scans[0]), _baseline_oracle(scans[0]), seconds),
        )


def _compare(ours: Callable[[], int], baseline: Callable[[], int], seconds: float) -> Comparison:
    """Time two ways in turn; each call does some frames and returns how many."""
    ours()
    baseline()
    rates = [
        (_rate(ours, seconds / _ROUNDS), _rate(baseline, seconds / _ROUNDS)) for _ in range(_ROUNDS)
    ]
    fast, slow = (float(np.median(column)) for column in zip(*rates, strict=True))
    return Comparison(fast, slow, float(np.median([a / b for a, b in rates])))


def _rate(work: Callable[[], int], seconds: float) -> float:
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not done:
        done += work()
    return done / elapsed if elapsed > 0 and done else float("nan")


def _vector_steps(scans: list[Slice]) -> Callable[[], int]:
    """Steps of the whole environment: observation, reward, scores, infos, autoreset."""
    env = ActiveMRIVectorEnv(
        num_envs=len(scans), data=SliceList(scans), n_center_lines=8, budget=48
    )
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    n_actions = env.episodes.n_actions

    def work() -> int:
        draws = generator.random((len(scans), n_actions)) * env.action_masks()
        env.step(draws.argmax(axis=1))
        return len(scans)

    return work


def _baseline_steps(scans: list[Slice]) -> Callable[[], int]:
    generator = np.random.default_rng(0)
    width = scans[0].shape[1]

    def work() -> int:
        scan = scans[generator.integers(len(scans))]
        baseline_step(scan, generator.random(width) < 0.3)
        return 1

    return work


def _oracle(scan: Slice) -> Callable[[], int]:
    """One-step oracle over all columns: one call is one decision."""
    env = ActiveMRIVectorEnv(
        num_envs=1, data=SliceList([scan]), n_center_lines=8, metrics=("ssim",)
    )
    env.reset(seed=0)
    every = np.arange(scan.shape[1])[None]

    def work() -> int:
        env.simulate(every)
        return 1

    return work


def _baseline_oracle(scan: Slice) -> Callable[[], int]:
    width = scan.shape[1]
    columns = np.zeros(width, dtype=bool)
    columns[width // 2 - 4 : width // 2 + 4] = True

    def work() -> int:
        baseline_trials(scan, columns, range(width))
        return 1

    return work


def _scan(case: Case, seed: int) -> Slice:
    """An ellipse with stripes and noise: what is in the image does not change the time."""
    generator = torch.Generator().manual_seed(seed)
    height, width = case.shape
    down, right = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    image = ((down / 0.6) ** 2 + (right / 0.8) ** 2 < 1) * (1 + 0.3 * torch.sin(20 * right + seed))
    image = image + 0.02 * torch.randn(case.shape, generator=generator)
    kspace = fourier.fft2(image.to(torch.complex64))
    target = center_crop(fourier.ifft2(kspace).abs(), case.target_shape).clone()
    return Slice(
        kspace[None], target, f"scan-{seed}", 0, f"subject-{seed}", volume_max=float(target.max())
    )


def _as_json(results: dict[str, Comparison]) -> str:
    return json.dumps(
        {
            "ratios": {
                name: round(result.ratio, 2)
                for name, result in results.items()
                if not name.endswith(_SINGLE)
            },
            "ratios_of_single_environments": {
                name.removesuffix(_SINGLE): round(result.ratio, 2)
                for name, result in results.items()
                if name.endswith(_SINGLE)
            },
            "frames_per_s": {name: round(result.ours, 1) for name, result in results.items()},
            "baseline_per_s": {name: round(result.baseline, 1) for name, result in results.items()},
        },
        indent=2,
    )


def _as_table(results: dict[str, Comparison]) -> str:
    lines = [f"{'one thread, zero-filled':26}{'ours /s':>12}{'baseline /s':>12}{'ratio':>8}"]
    lines += [
        f"{name:26}{result.ours:12.1f}{result.baseline:12.1f}{result.ratio:8.1f}"
        for name, result in results.items()
    ]
    lines.append(
        f"step: one scan acquires one line ({N_SCANS} scans side by side, or a single one); "
        "oracle: one decision over all columns."
    )
    return "\n".join(lines)
