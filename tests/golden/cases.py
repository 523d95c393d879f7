"""Recorded episodes: which environments are played, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """An environment and the way to play it.

    Attributes:
        name: of the record.
        environment: the part of the id between ``ActiveMRI/`` and the version 0.
        options: keywords of ``gymnasium.make``.
        files: kind of the scans, where they come from files; see :mod:`tests.golden.files`.
        seeds: an episode for each.
        steps: most actions of an episode; None plays to the end.
        every: actions from one digest of the observation to the next.
        infos_every: actions from one recorded info to the next; the last one always is.
        again: share of actions that measure an acquired line again.
        illegal: share of actions that are illegal.
        stop: where the last action stops the scan: the number of actions before it by seed (other
            seeds go on to the end).
        reset: options of every ``reset``.
    """

    name: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    every: int = 6
    infos_every: int = 3
    again: float = 0.0
    illegal: float = 0.0
    stop: Mapping[int, int] | None = None
    reset: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"activemri:ActiveMRI/{self.environment}-v0"


#: The plain step: no network, and little to reconstruct.
PLAIN: dict[str, Any] = {"reconstructor": "zero-filled", "matrix_size": 32, "budget": 6}
#: Phantoms of several coils as they were recorded: with their true maps.
KNOWN: dict[str, Any] = {"sensitivity": "known"}

#: Received samples as they are, as records have them.
RAW = {"processing": "none"}

#: Every registered id, with a smaller matrix than 128 x 128, which takes long.
IDS = (
    Case("Phantom", "Phantom", {"matrix_size": 48}, infos_every=1),
    Case("PhantomMulticoil", "PhantomMulticoil", {"matrix_size": 48}),
    Case(
        "SinglecoilKnee",
        "SinglecoilKnee",
        {"split": "all"},
        "singlecoil-knee",
        every=12,
        infos_every=5,
    ),
    Case(
        "MulticoilKnee",
        "MulticoilKnee",
        {"split": "all"},
        "multicoil-knee",
        every=12,
        infos_every=5,
    ),
    Case(
        "MulticoilBrain",
        "MulticoilBrain",
        {"split": "all"},
        "multicoil-brain",
        every=12,
        infos_every=5,
    ),
    Case(
        "Pineda2020-2L",
        "Pineda2020-2L",
        {"split": "all"},
        "singlecoil-knee",
        every=20,
        infos_every=10,
    ),
    Case(
        "Pineda2020-30L",
        "Pineda2020-30L",
        {"split": "all"},
        "singlecoil-knee",
        every=20,
        infos_every=10,
    ),
    Case("Mixed", "Mixed", {"matrix_size": 40}),
    Case(
        "FreeBudget",
        "FreeBudget",
        {"matrix_size": 64},
        every=8,
        infos_every=4,
        stop={0: 24, 1: 9, 2: 4},
    ),
    Case("Lesion", "Lesion", {"matrix_size": 48}),
    Case("EchoTrain", "EchoTrain", {"matrix_size": 48}, every=3, infos_every=1),
    Case("LowField", "LowField", {"matrix_size": 32}, every=12, again=0.4),
    Case("Motion", "Motion", {"matrix_size": 40, **RAW}, every=8, again=0.3),
    Case("Spikes", "Spikes", {"matrix_size": 40, **RAW}, every=8, again=0.3),
    # Its own budget is no part of what must stay.
    Case("HDF5", "HDF5", {"split": "all", "budget": 12}, "generic"),
)

OPTIONS = (
    Case("noop", "Phantom", {**PLAIN, "invalid_action": "noop"}, illegal=0.4, seeds=(0, 1)),
    Case("noop-cost", "Phantom", {**PLAIN, "step_cost": 0.01, "tr": 2.0}, illegal=0.4, seeds=(0,)),
    Case("raise", "Phantom", {**PLAIN, "invalid_action": "raise"}, seeds=(0,)),
    Case("stop", "Phantom", {**PLAIN, "stop_action": True, "tr": 2.0}, stop={0: 0, 1: 3}),
    Case("rows", "Phantom", {**PLAIN, "geometry": "rows"}, seeds=(0,)),
    Case("points", "Phantom", {**PLAIN, "geometry": "points", "n_center_lines": 60}, seeds=(0,)),
    Case(
        "points-train",
        "Phantom",
        {**PLAIN, "geometry": "points", "lines_per_action": 8, "budget": 48},
        seeds=(0,),
    ),
    Case(
        "conjugate-columns",
        "Phantom",
        {**PLAIN, "geometry": "conjugate-columns", "budget": 12},
        seeds=(0,),
    ),
    Case("lines-per-action", "Phantom", {**PLAIN, "lines_per_action": 2, "budget": 11, "tr": 0.5}),
    Case("n-random-lines", "Phantom", {**PLAIN, "n_random_lines": 4}),
    Case("orientation-mixed", "Phantom", {**PLAIN, "orientation": "mixed"}),
    Case(
        "roi-center", "Phantom", {**PLAIN, "roi": "center", "reward": "delta_roi_ssim"}, seeds=(0,)
    ),
    Case("roi-box", "Phantom", {**PLAIN, "roi": (4, 6, 12, 10), "observation": "roi"}, seeds=(0,)),
    Case("no-centre", "Phantom", {**PLAIN, "n_center_lines": 0}, seeds=(0,)),
    Case("validation", "Phantom", {**PLAIN, "split": "val"}, seeds=(0,)),
    Case("test", "Phantom", {**PLAIN, "split": "test", "metrics": ("ssim_volume",)}, seeds=(0,)),
    Case("oblong", "Phantom", {**PLAIN, "matrix_size": (24, 40)}, seeds=(0,)),
    Case("index", "Phantom", PLAIN, seeds=(0,), reset={"index": 7}),
    Case("slice", "HDF5", {"budget": 6, "split": "all", "target": "rss"}, "raw", (0,), reset={
        "volume": "raw", "slice": 1}),
    Case("start", "Phantom", PLAIN, seeds=(0,), reset={
        "initial_mask": [place % 5 == 0 for place in range(32)]}),
    Case("mixed-multicoil", "Mixed", {
        **PLAIN, **KNOWN, "data": "phantom-mixed-multicoil"}, seeds=(0, 1)),
    Case(
        "multicoil-espirit-updated",
        "PhantomMulticoil",
        {"matrix_size": 32, "budget": 6, "sensitivity": "espirit-updated"},
        seeds=(0,),
    ),
    *(
        Case(
            f"sensitivity-{name}",
            "HDF5",
            {"budget": 6, "split": "all", "target": "rss", "sensitivity": name},
            "raw",
            seeds=(0,),
            every=3,
        )
        for name in ("low-resolution", "walsh", "espirit", "walsh-updated", "espirit-updated")
    ),
    *(
        Case(
            f"{name}-{geometry}",
            "Phantom",
            {**PLAIN, "geometry": geometry, "budget": 10, **scanner},
            seeds=(0,),
            again=0.4,
        )
        for name, scanner in (
            ("noise", {"scanner": "noisy"}),
            ("motion", {"scanner": "moving", **RAW}),
            ("spikes", {"scanner": "spiking", **RAW}),
        )
        for geometry in ("rows", "conjugate-columns")
    ),
)  # fmt: skip

OBSERVATIONS = (
    *(
        Case(
            f"{name}-{environment}",
            environment,
            {"matrix_size": 32, "budget": 4, "observation": name}
            | (KNOWN if environment == "PhantomMulticoil" else {})
            | (RAW if environment == "Spikes" else {}),
            seeds=(0,),
            every=2,
            again=0.5 if environment == "Spikes" else 0.0,
        )
        for environment, names in {
            "Lesion": ("image", "roi", "lines"),
            "Spikes": ("uncertainty", "mask", "lines", "flat"),
            "PhantomMulticoil": ("complex", "kspace", "multicoil", "lines", "flat"),
        }.items()
        for name in names
    ),
    *(
        Case(
            f"{name}-rows",
            "Phantom",
            {**PLAIN, "geometry": "rows", "observation": name},
            seeds=(0,),
            every=3,
        )
        for name in ("lines", "kspace")
    ),
)  # fmt: skip

REWARDS = tuple(
    Case(name, "Lesion", {"matrix_size": 32, "budget": 4, "reward": name}, seeds=(0,), every=4)
    for name in (
        "delta_ssim",
        "delta_psnr",
        "-delta_nmse",
        "-delta_nrmse",
        "-delta_mse",
        "delta_ssim_volume",
        "delta_psnr_volume",
        "delta_roi_ssim",
        "-delta_roi_nmse",
        "uncertainty_drop",
    )
)

#: Reconstructors by name, the shipped weights among them, and phantoms at their usual size.
RECONSTRUCTORS = (
    Case("phantom-128", "Phantom", seeds=(0,), steps=4),
    Case("phantom-multicoil-128", "PhantomMulticoil", KNOWN, seeds=(0,), steps=4),
    *(
        Case(
            f"{name}-{data}",
            "PhantomMulticoil" if data == "multicoil" else "Phantom",
            {
                "matrix_size": size,
                "budget": 4,
                "reconstructor": name,
                "observation": "complex",
            }
            | (KNOWN if data == "multicoil" else {}),
            seeds=(0,),
            every=2,
        )
        for name, size in (
            ("zero-filled", 32),
            ("cg-sense", 32),
            ("wavelet", 32),
            ("total-variation", 32),
            ("unet", 48),
            ("cresnet", 48),
        )
        for data in ("singlecoil", "multicoil")
    ),
)

#: Records by the name of their file.
GROUPS: dict[str, tuple[Case, ...]] = {
    "ids": IDS,
    "options": OPTIONS,
    "observations": OBSERVATIONS,
    "rewards": REWARDS,
    "reconstructors": RECONSTRUCTORS,
}
