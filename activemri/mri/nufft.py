"""Fourier transform between images and samples anywhere in k-space.

Sums are those of finufft (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41:C479, 2019),
on CUDA devices of cufinufft. Gradients, also those of the trajectory, are those of Wang and
Fessler, "Efficient approximation of Jacobian matrices involving a non-uniform fast Fourier
transform", IEEE TCI 9:43, 2023. The normal operator is a convolution (Wajer and Pruessmann,
ISMRM 2001, 767).
"""

import importlib
import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import finufft
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST = 0.5 + 1e-3  # cycles per pixel, with the rounding of files
REMEMBERED = 8  # sets of plans
AT_ONCE_ON_CUDA = 8  # transforms; cufinufft takes no more at once
FINEST = {torch.complex64: 1e-6, torch.complex128: 1e-14}  # what rounding leaves of an accuracy

Shape = tuple[int, int]


class NUFFT:
    """A: samples of an image's spectrum at given positions, and what follows from it.

    With p the index of a pixel minus n // 2 along both axes, the sample at k is

        y(k) = (height width)^(-1/2) sum over p of x(p) exp(-2 pi i k . p)

    which at the positions (q - n // 2) / n is what :func:`activemri.mri.fourier.fft2` gives.
    Everything is differentiable once, in the trajectory too. Plans are kept for the eight
    trajectories that were used last, whichever objects they were used by.

    Args:
        trajectory: k in cycles per pixel, along the height first, float (..., 2). Samples are in
            the order of its flattened leading axes. A trajectory that was changed in place needs a
            new object.
        shape: (height, width) of the images.
        eps: relative accuracy of the sums. Single precision reaches about 1e-6.
        n_threads: of the sums; None for as many as torch uses.

    Raises:
        ValueError: for a trajectory of another shape, not finite or in another unit; and for
            an impossible shape, accuracy or number of threads.
    """

    def __init__(
        self,
        trajectory: Tensor,
        shape: Shape,
        *,
        eps: float = 1e-5,
        n_threads: int | None = None,
    ) -> None:
        _refuse_wrong_positions(trajectory)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"expected a height and a width of at least 1; got {shape}")
        if not 0 < eps < 1:
            raise ValueError(f"expected an accuracy between 0 and 1; got eps={eps}")
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"expected at least one thread; got n_threads={n_threads}")
        self.trajectory = trajectory
        self.shape = (int(shape[0]), int(shape[1]))
        self.eps = eps
        self.n_threads = n_threads
        self._version = _version(trajectory)
        self._flat = trajectory.reshape(-1, 2)
        positions = self._flat.detach().to("cpu", torch.float64).numpy()
        self._positions = positions.tobytes()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._version = _version(self.trajectory)  # copies count from anew

    @property
    def n_samples(self) -> int:
        return len(self._flat)

    def forward(self, images: Tensor) -> Tensor:
        """A: complex images (batch, coil, height, width) to samples (batch, coil, sample)."""
        if images.ndim != 4 or images.shape[2:] != self.shape:
            raise ValueError(
                f"expected images of the shape (batch, coil, {self.shape[0]}, {self.shape[1]}); "
                f"got {tuple(images.shape)}"
            )
        return self._differentiable(images, adjoint=False)

    def adjoint(self, samples: Tensor) -> Tensor:
        """A^H: complex samples (batch, coil, sample) to images (batch, coil, height, width)."""
        if samples.ndim != 3 or samples.shape[2] != self.n_samples:
            raise ValueError(
                f"expected samples of the shape (batch, coil, {self.n_samples}), as the trajectory "
                f"has {self.n_samples} positions; got {tuple(samples.shape)}"
            )
        return self._differentiable(samples, adjoint=True)

    def gram_kernel(self, weights: Tensor) -> Tensor:
        """Transfer function of the convolution A^H W A, for :meth:`gram`.

        It takes one adjoint. It is differentiable in weights and trajectory, so that gradients
        through steps with :meth:`gram` need no other sums over samples.

        Args:
            weights: W, real, (batch, sample), or with the samples' axes apart, (batch, ...).

        Returns:
            real (batch, 2 height, 2 width), in the order of :func:`torch.fft.fft2`.
        """
        if weights.is_complex() or math.prod(weights.shape[1:]) != self.n_samples:
            raise ValueError(
                f"expected real weights of the shape (batch, {self.n_samples}), as the trajectory "
                f"has {self.n_samples} positions; got {weights.dtype} {tuple(weights.shape)}"
            )
        height, width = self.shape
        differences = NUFFT(
            self.trajectory,
            (2 * height - 1, 2 * width - 1),
            eps=self.eps,
            n_threads=self.n_threads,
        )
        is_double = weights.dtype == torch.float64
        values = weights.flatten(1).to(torch.complex128 if is_double else torch.complex64)
        kernel = differences.adjoint(values[:, None])[:, 0]
        kernel = torch.nn.functional.pad(kernel, (1, 0, 1, 0))  # its centre is at (height, width)
        spectrum: Tensor = torch.fft.fft2(torch.fft.ifftshift(kernel, dim=(-2, -1))).real
        return spectrum * (math.sqrt(math.prod(differences.shape)) / math.prod(self.shape))

    @staticmethod
    def gram(images: Tensor, kernel: Tensor) -> Tensor:
        """A^H W A by a convolution on a grid of twice the size.

        Args:
            images: complex (batch, coil, height, width).
            kernel: of :meth:`gram_kernel`, (batch or 1, 2 height, 2 width).
        """
        height, width = images.shape[-2:]
        if kernel.ndim != 3 or kernel.shape[1:] != (2 * height, 2 * width):
            raise ValueError(
                f"expected a kernel of the shape (batch or 1, {2 * height}, {2 * width}) for "
                f"images of {height} x {width}; got {tuple(kernel.shape)}"
            )
        kernel = kernel.expand(len(images), -1, -1)
        if images.is_cuda or images.numel() == 0:
            return _convolved(images, kernel[:, None])
        one_by_one = [  # image after image stays in the processor's caches
            _convolved(image, factors)
            for coils, factors in zip(images, kernel, strict=True)
            for image in coils
        ]
        return torch.stack(one_by_one).reshape(images.shape)

    def _differentiable(self, values: Tensor, *, adjoint: bool) -> Tensor:
        result: Tensor = _Sums.apply(  # type: ignore[no-untyped-call]
            values, self._flat, self, adjoint
        )
        return result

    def _sums(self, values: Tensor, *, adjoint: bool = False) -> Tensor:
        """A or A^H, without gradients."""
        if values.dtype not in FINEST:
            raise ValueError(f"expected complex64 or complex128; got {values.dtype}")
        if _version(self.trajectory) != self._version:
            raise ValueError("the trajectory was changed in place; build a new NUFFT from it")
        batch, n_coils = values.shape[:2]
        n_threads = self.n_threads or torch.get_num_threads()
        at_once = AT_ONCE_ON_CUDA if values.is_cuda else n_threads
        after = self.shape if adjoint else (self.n_samples,)
        if batch * n_coils == 0:
            return values.new_zeros(batch, n_coils, *after)
        chunk = min(batch, math.ceil(at_once / n_coils))
        n_trans = n_coils * chunk
        flat = values.detach().resolve_conj().contiguous().flatten(0, 1)
        sums = flat.new_empty(math.ceil(batch / chunk) * n_trans, *after)
        if len(flat) < len(sums):  # the last chunk is filled up: cheaper than another plan
            flat = torch.cat([flat, flat.new_zeros(len(sums) - len(flat), *flat.shape[1:])])
        plans = _plans(
            self._positions,
            self.shape,
            n_trans,
            values.dtype,
            max(self.eps, FINEST[values.dtype]),
            n_threads,
            values.device,
            torch.cuda.current_stream(values.device).cuda_stream if values.is_cuda else 0,
        )
        execute = plans.adjoint if adjoint else plans.forward
        for one, out in zip(flat.split(n_trans), sums.split(n_trans), strict=True):
            execute(one, out)
        sums *= 1 / math.sqrt(math.prod(self.shape))
        result: Tensor = sums[: batch * n_coils].unflatten(0, (batch, n_coils))
        return result

    def _of_trajectory(self, images: Tensor, samples: Tensor) -> Tensor:
        """2 pi Im sum of conj(samples) A (r images), r the place of a pixel: (sample, 2)."""
        gradients = []
        for axis, n in zip((-2, -1), self.shape, strict=True):
            places = (torch.arange(n, device=images.device) - n // 2).to(images.real.dtype)
            moments = images * (places[:, None] if axis == -2 else places)
            seen = self._sums(moments)
            gradients.append((samples.conj() * seen).imag.sum(dim=(0, 1)))
        return 2 * math.pi * torch.stack(gradients, dim=-1)


class _Sums(torch.autograd.Function):
    """A, or A^H if `adjoint`, of values."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, trajectory: Tensor, nufft: NUFFT, adjoint: bool
    ) -> Tensor:
        ctx.nufft, ctx.adjoint, ctx.dtype = nufft, adjoint, trajectory.dtype
        ctx.save_for_backward(values if ctx.needs_input_grad[1] else None)
        return nufft._sums(values, adjoint=adjoint)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_values = of_trajectory = None
        if ctx.needs_input_grad[0]:
            of_values = ctx.nufft._sums(gradient, adjoint=not ctx.adjoint)
        if ctx.needs_input_grad[1]:
            (values,) = ctx.saved_tensors
            images, samples = (gradient, values) if ctx.adjoint else (values, gradient)
            of_trajectory = ctx.nufft._of_trajectory(images, samples).to(ctx.dtype)
        return of_values, of_trajectory, None, None


class _Plans:
    """Unscaled sums in both directions over n_trans images, all at the same positions."""

    def __init__(
        self,
        positions: bytes,  # float64 (sample, 2)
        shape: Shape,
        n_trans: int,
        dtype: torch.dtype,
        eps: float,
        n_threads: int,
        device: torch.device,
        stream: int,
    ) -> None:
        on_cuda = device.type == "cuda"
        if not on_cuda and device.type != "cpu":
            raise ValueError(f"expected tensors on the CPU or on a CUDA device; got {device}")
        options: dict[str, Any] = {"nthreads": n_threads}
        if on_cuda:
            options = {"gpu_device_id": device.index, "gpu_stream": stream}
        plan = _cufinufft().Plan if on_cuda else finufft.Plan
        name = str(dtype).removeprefix("torch.")
        self._forward = plan(2, shape, n_trans, eps, isign=-1, dtype=name, **options)
        self._adjoint = plan(1, shape, n_trans, eps, isign=1, dtype=name, **options)
        self._native: Callable[[Tensor], Any] = (
            torch.Tensor.detach if on_cuda else torch.Tensor.numpy
        )
        self._lock = threading.Lock()  # a plan has one workspace
        places = torch.frombuffer(bytearray(positions), dtype=torch.float64).reshape(-1, 2)
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        points = [axis.contiguous() for axis in (2 * math.pi * places.T).to(device, real)]
        for one in (self._forward, self._adjoint):
            one.setpts(*map(self._native, points))

    def forward(self, images: Tensor, samples: Tensor) -> None:
        """Images (n_trans, height, width) to samples (n_trans, sample), which it writes."""
        with self._lock:
            self._forward.execute(self._native(images), out=self._native(samples))

    def adjoint(self, samples: Tensor, images: Tensor) -> None:
        """Samples (n_trans, sample) to images (n_trans, height, width), which it writes."""
        with self._lock:
            self._adjoint.execute(self._native(samples), out=self._native(images))


_plans = lru_cache(maxsize=REMEMBERED)(_Plans)


def _convolved(images: Tensor, kernel: Tensor) -> Tensor:
    """Images (..., height, width) after A^H W A."""
    height, width = images.shape[-2:]
    spectrum = torch.fft.fft(images, 2 * width, dim=-1)  # rows of zeros stay zero
    spectrum = torch.fft.fft(spectrum, 2 * height, dim=-2) * kernel
    seen = torch.fft.ifft(spectrum, dim=-2)[..., :height, :]
    result: Tensor = torch.fft.ifft(seen, dim=-1)[..., :width]
    return result


def _cufinufft() -> Any:
    try:
        return importlib.import_module("cufinufft")
    except ImportError as error:
        raise ImportError(
            "non-uniform Fourier transforms on a CUDA device need cufinufft: "
            "pip install 'activemri[gpu]', or move the tensors to the CPU"
        ) from error


def _version(trajectory: Tensor) -> int:
    """Number of changes in place."""
    return 0 if trajectory.is_inference() else trajectory._version


def _refuse_wrong_positions(trajectory: Tensor) -> None:
    expected = "expected a trajectory in cycles per pixel, from -0.5 to 0.5, "
    if trajectory.ndim < 2 or trajectory.shape[-1] != 2 or not trajectory.is_floating_point():
        raise ValueError(
            f"{expected}of the shape (..., 2) and a float dtype; "
            f"got {trajectory.dtype} {tuple(trajectory.shape)}"
        )
    if trajectory.numel() == 0:
        raise ValueError(f"{expected}of at least one position; got {tuple(trajectory.shape)}")
    largest = float(trajectory.detach().abs().max())
    if not np.isfinite(largest):
        raise ValueError(f"{expected}that is finite; got NaN or Inf")
    if largest > LARGEST:
        hint = "cycles per field of view? Divide by the size of the image"
        if largest <= math.pi * 1.01:
            hint = "radians per pixel? Divide by 2 pi"
        raise ValueError(f"{expected[:-2]}; got values up to {largest:.4g} ({hint})")
