"""Frames of the environment a second, against a baseline: the obvious way of writing a step.

Absolute rates depend on the machine and on what else it does; the two ways are timed in turn,
so their ratio is what to compare.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import FlagCreatePairsOff

from activemri.data.slices import Slice, SliceList
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.options import require_positive

N_SCANS = 32  # side by side
_SINGLE = "_single"  # one environment at a time: bound by Python, not by arithmetic
_ROUNDS = 7  # each way is timed so often, in turn; the median ratio counts

Work = Callable[[], int]  # does some frames and returns how many

#: Height and width of k-space, and of the crop that is scored.
CASES = {
    "128x128": ((128, 128), (128, 128)),
    "640x368": ((640, 368), (320, 320)),
}


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
    results: dict[str, NDArray[np.float64]] = {}  # ours and the baseline a second, and the ratio
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (shape, target_shape) in CASES.items():
            scans = [_scan(shape, target_shape, seed) for seed in range(N_SCANS)]
            ways = {
                f"step_{name}": _steps(scans, N_SCANS),
                f"step_{name}{_SINGLE}": _steps(scans, 1),
                f"oracle_{name}": _oracles(scans[0]),
            }
            for label, (ours, baseline) in ways.items():
                results[label] = _compare(ours, baseline, settings.seconds)
    finally:
        torch.set_num_threads(n_threads)
    if settings.json:
        ratios = {name: round(ratio, 2) for name, (_, _, ratio) in results.items()}
        singles = {name for name in ratios if name.endswith(_SINGLE)}
        content = {
            "ratios": {name: ratios[name] for name in ratios if name not in singles},
            "ratios_of_single_environments": {
                name.removesuffix(_SINGLE): ratios[name] for name in ratios if name in singles
            },
            "frames_per_s": {name: round(ours, 1) for name, (ours, _, _) in results.items()},
            "baseline_per_s": {name: round(slow, 1) for name, (_, slow, _) in results.items()},
        }
        return json.dumps(content, indent=2)
    lines = [f"{'one thread, zero-filled':26}{'ours /s':>12}{'baseline /s':>12}{'ratio':>8}"]
    for name, (ours, slow, ratio) in results.items():
        lines.append(f"{name:26}{ours:12.1f}{slow:12.1f}{ratio:8.1f}")
    lines.append(
        f"step: one scan acquires one line ({N_SCANS} scans side by side, or a single one); "
        "oracle: one decision over all columns."
    )
    return "\n".join(lines)


def baseline_step(scan: Slice, columns: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of the zero-filled reconstruction of a single-coil scan, one image at a time.

    As the field's code does at every step: mask k-space (columns acquired so far, bool (width,)),
    inverse Fourier transform, crop, then scikit-image's SSIM and PSNR and NumPy's MSE and NMSE.
    Tests use it as the slow second way of computing scores.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    shifted = torch.fft.ifftshift(scan.kspace[0] * torch.from_numpy(columns), dim=(-2, -1))
    image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
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


def _compare(ours: Work, baseline: Work, seconds: float) -> NDArray[np.float64]:
    """Medians of the rates of two ways, timed in turn, and of their ratio."""
    ours()
    baseline()
    rates = []
    for _ in range(_ROUNDS):
        for work in (ours, baseline):
            done, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds / _ROUNDS or not done:
                done += work()
            rates.append(done / elapsed)
    fast, slow = np.reshape(rates, (_ROUNDS, 2)).T
    medians: NDArray[np.float64] = np.median([fast, slow, fast / slow], axis=1)
    return medians


def _steps(scans: list[Slice], n_envs: int) -> tuple[Work, Work]:
    """Steps of the whole environment: observation, reward, scores, infos, autoreset."""
    env = ActiveMRIVectorEnv(
        num_envs=n_envs, data=SliceList(scans[:n_envs]), n_center_lines=8, budget=48
    )
    env.reset(seed=0)
    ours, others = np.random.default_rng(0), np.random.default_rng(0)

    def step() -> int:
        draws = ours.random((n_envs, env.episodes.n_actions)) * env.action_masks()
        env.step(draws.argmax(axis=1))
        return n_envs

    def baseline() -> int:
        scan = scans[others.integers(len(scans))]
        baseline_step(scan, others.random(scan.shape[1]) < 0.3)
        return 1

    return step, baseline


def _oracles(scan: Slice) -> tuple[Work, Work]:
    """One-step oracles over all columns: one call is one decision."""
    env = ActiveMRIVectorEnv(
        num_envs=1, data=SliceList([scan]), n_center_lines=8, metrics=("ssim",)
    )
    env.reset(seed=0)
    every = np.arange(scan.shape[1])
    center = np.isin(every, every[len(every) // 2 - 4 : len(every) // 2 + 4])

    def decide() -> int:
        env.simulate(every[None])
        return 1

    def baseline() -> int:
        for column in every:
            baseline_step(scan, center | (every == column))
        return 1

    return decide, baseline


def _scan(shape: tuple[int, int], target_shape: tuple[int, int], seed: int) -> Slice:
    """An ellipse with stripes and noise: what is in the image does not change the time."""
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    image = ((down / 0.6) ** 2 + (right / 0.8) ** 2 < 1) * (1 + 0.3 * torch.sin(20 * right + seed))
    image = image + 0.02 * torch.randn(shape, generator=generator)
    kspace = fourier.fft2(image.to(torch.complex64))
    target = center_crop(fourier.ifft2(kspace).abs(), target_shape).clone()
    return Slice(
        kspace[None], target, f"scan-{seed}", 0, f"subject-{seed}", volume_max=float(target.max())
    )
