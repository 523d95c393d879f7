"""Small scans of random k-space, and a reconstructor that gives an uncertainty."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from activemri.batched import Batched
from activemri.data.slices import Slice, SliceList, measured_samples
from activemri.envs.scan import State
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.geometry import Geometry, make_geometry
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS

FEW_STEPS: dict[str, dict[str, Any]] = {
    "wavelet": {"steps": 5},
    "total-variation": {"steps": 5},
    "diffusion": {"n_steps": 3, "n_samples": 2},
}


def scan(
    index: int = 0,
    *,
    shape: tuple[int, int] = (16, 18),
    target_shape: tuple[int, int] | None = None,
    n_coils: int = 1,
    padding: int = 0,
    maps: bool = False,
    volume: str | None = None,
) -> Slice:
    """Random k-space that decays from the centre, so that lines differ in worth.

    Args:
        padding: columns at each side that were never measured.
        maps: give coil maps; else several coils mean that maps are to be estimated.
    """
    generator = torch.Generator().manual_seed(index)
    height, width = shape
    down = (torch.arange(height) - height // 2)[:, None] / height
    right = (torch.arange(width) - width // 2) / width
    decay = 1 / (0.02 + down**2 + right**2)
    kspace = decay * torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)
    if padding:
        kspace[..., :padding] = kspace[..., -padding:] = 0
    image = fourier.ifft2(kspace).abs().square().sum(dim=0).sqrt()
    target = center_crop(image, target_shape or shape).clone()
    sensitivity = None
    if maps:
        raw = torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)
        sensitivity = raw / raw.abs().square().sum(dim=0).sqrt()
    return Slice(
        kspace,
        target,
        volume or f"volume-{index}",
        index,
        f"subject-{index}",
        1.2 * float(target.max()),
        sensitivity=sensitivity,
        measured=measured_samples(kspace),
    )


def mixed_scans() -> SliceList:
    """Sizes, coils and padding differ, so that batches have to be split."""
    return SliceList(
        [scan(i) for i in range(4)]
        + [scan(i, shape=(20, 22), padding=2, target_shape=(12, 14)) for i in range(4, 7)]
        + [scan(7, shape=(15, 13), n_coils=3)],
        name="mixed",
    )


def equal_scans(n: int = 4) -> SliceList:
    """Scans of one kind."""
    return SliceList([scan(i) for i in range(n)], name="equal")


def random_weights(name: str) -> Reconstructor:
    """A registered reconstructor of few steps, with random weights where it has weights."""
    made = RECONSTRUCTORS[name](**FEW_STEPS.get(name, {})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return made


class Unsure(Reconstructor):
    """Zero-filled, with an uncertainty that falls as lines are acquired."""

    is_differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        mask, transform = measurement.operator.mask, measurement.operator.transform
        own = transform.measurable(torch.ones(1, *transform.shape, dtype=torch.bool)).sum()
        missing = 1 - mask.sum(dim=1) / own
        uncertainty = measurement.zero_filled.abs() * missing[:, None, None]
        return Reconstruction(measurement.zero_filled, uncertainty)


def grouped(name: str, shape: tuple[int, int], n: int = 1) -> Geometry:
    """A geometry by name; n readouts an action, n along both sides of a tile."""
    option = "tile" if name == "tiles" else "lines_per_action"
    return make_geometry(name, shape, **{option: n})


def is_served(reconstructor: str, geometry: str) -> bool:
    """The reconstructor of that name can serve the geometry of that name."""
    return not geometry.startswith("radial") or "grid" not in RECONSTRUCTORS[reconstructor].needs


def tensors_of(record: Batched, name: str = "") -> dict[str, Tensor]:
    """All tensors of a record by their path, its own records' included."""
    found: dict[str, Tensor] = {}
    for field in fields(record):  # type: ignore[arg-type]  # subclasses are dataclasses
        value = getattr(record, field.name)
        path = f"{name}.{field.name}"
        if isinstance(value, Tensor):
            found[path] = value
        elif isinstance(value, Batched):
            found |= tensors_of(value, path)
        elif isinstance(value, dict):
            found |= {f"{path}.{key}": item for key, item in value.items()}
    return found


def assert_same(one: Batched, other: Batched) -> None:
    """Two records are bitwise the same."""
    theirs = tensors_of(other)
    for name, value in tensors_of(one).items():
        assert torch.equal(value, theirs[name]), name


def full_kspace(state: State) -> Tensor:
    """The fully sampled scans, complex (batch, coil, height, width)."""
    return torch.stack([one.kspace for one in state.secret.slices])


def full_samples(state: State) -> Tensor:
    """The same as readouts, complex (batch, readout, coil, sample)."""
    return state.view.transform.of_grid(full_kspace(state))


def with_other_unacquired(one: Slice, acquired: Tensor, *, scale: float, seed: int = 99) -> Slice:
    """The same scan where acquired, bool (height or 1, width or 1); anything elsewhere.

    Samples that were not acquired are replaced by others, times `scale`, where the scanner
    measured at all; target and volume range are replaced as well.
    """
    generator = torch.Generator().manual_seed(seed)
    other = scale * torch.randn(one.kspace.shape, dtype=torch.complex64, generator=generator)
    kspace = torch.where(acquired, one.kspace, other * one.measured)
    target = 7 * torch.rand(one.target.shape, generator=generator)
    return replace(one, kspace=kspace, target=target, volume_max=31.0)
