"""Policies that look at this scan's reconstruction, and at images that could be behind it."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from activemri.agents.policy import Greedy, Traits, score_actions, signed
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, Truth, View
from activemri.evaluator import Evaluator, make_evaluator
from activemri.metrics import find_metric
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.geometry import cartesian
from activemri.mri.operators import Operator
from activemri.mri.spectrum import line_distances, power_law
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import make_reconstructor

_AXES = (-2, -1)

#: Images drawn where a reconstructor gives a standard deviation alone.
N_DRAWN = 8

#: Principal components that count for `principal-components`.
N_COMPONENTS = 2

#: Standard deviation of the components of `entropy-greedy`, per real number, in units of the scan's
#: scale (the largest magnitude of its first image). It is the 50 of the paper, whose images of
#: 128 x 128 lie in [-1, 1] and whose Fourier transform is not normalised: 50 / 128 with an
#: orthonormal one.
SIGMA = 50 / 128


def evaluator_greedy(evaluator: str | Path | Evaluator | None = None) -> Greedy:
    """Takes the line that looks least real to the evaluator.

    Zhang et al., CVPR 2019: argmin over the legal columns of e_i(reconstruction). An action that
    acquires several lines counts what all of them lack to a score of 1.

    Args:
        evaluator: of as many lines as the scans have, or more; see
            :func:`activemri.evaluator.make_evaluator`.
    """
    asked, traits = make_evaluator(evaluator), Traits(needs=frozenset({"lines", "evaluator"}))
    return Greedy(
        "evaluator-greedy", lambda view: action_gains(1 - line_scores(asked, view), view), traits
    )


def line_scores(evaluator: Evaluator, view: View) -> Tensor:
    """Scores of every line by the evaluator, float (batch, n_lines).

    Raises:
        ValueError: if the geometry acquires points, or has more lines than the evaluator.
    """
    if not view.geometry.has_lines:
        raise ValueError(
            f"an evaluator scores whole lines; geometry {view.geometry.name!r} has none"
        )
    image = view.reconstruction.image
    image = image.transpose(1, 2) if view.geometry.are_rows else image
    with torch.no_grad():
        scores: Tensor = evaluator(image, view.mask)
    return scores


def uncertainty_greedy() -> Greedy:
    """Takes the line about which the reconstruction is least certain; see :func:`line_variance`."""
    traits = Traits(needs=frozenset({"uncertainty", "grid"}))
    return Greedy(
        "uncertainty-greedy", lambda view: action_gains(line_variance(view), view), traits
    )


def line_variance(view: View) -> Tensor:
    """Expected squared error of every line that was not acquired, float (batch, n_lines).

    With posterior samples it is their variance, summed along the readout. With a standard
    deviation s per pixel alone, errors are taken to be s times stationary noise. Their energy on
    line i is then that of s along the phase encode, convolved with the noise's spectrum P:

        v_i = sum_j P_j q_{i - j},   q = sum over the readout of |F s|^2.

    P is zero on acquired lines, whose samples are known, and elsewhere follows the power law of
    frequency that fits the energies of the acquired lines best.

    Raises:
        ValueError: if the reconstructor gives no uncertainty.
    """
    samples, deviation = view.reconstruction.samples, view.reconstruction.uncertainty
    if samples is not None:
        spread = samples - samples.mean(dim=1, keepdim=True)
        energy = view.transform.energy(spread.flatten(0, 1))
        variance: Tensor = energy.unflatten(0, samples.shape[:2]).mean(dim=1)
    elif deviation is not None:
        transform = cartesian(view.transform)
        energy = transform.grid_energy(deviation.to(torch.complex64))
        noise = noise_spectrum(view)
        product = torch.fft.rfft2(torch.fft.ifftshift(energy, _AXES)) * torch.fft.rfft2(noise)
        spread = torch.fft.irfft2(product, s=noise.shape[1:])
        variance = transform.of_grid_values(spread.clamp(min=0))
    else:
        raise ValueError(
            "uncertainty-greedy needs a reconstructor that says how certain it is, e.g. cresnet, "
            "an ensemble or Monte-Carlo dropout"
        )
    return variance.masked_fill(view.mask, 0)


def uncertainty_gradient(reconstructor: str | Path | Reconstructor | None) -> Greedy:
    """Takes the action that, begun, lowers the entropy of the image fastest.

    Readouts not yet acquired get a weight of 0 and the samples that the present reconstruction
    shows; the derivative of the entropy with respect to the weights comes from one backward pass
    through the reconstructor. With a standard deviation per pixel the entropy is the sum of their
    logarithms. After the gradient-based policy of Ayzenberg et al., TRUST-MRI, arXiv 2603.21806,
    whose uncertainty is an entropy of tokens.

    Args:
        reconstructor: of the scans; its gradients with respect to masks have to be right
            (`is_differentiable`), and it gives an uncertainty.

    Raises:
        ValueError: without a reconstructor, or for one without such gradients; in scans, for one
            without an uncertainty.
    """
    if reconstructor is None:
        raise ValueError(
            "policy 'uncertainty-gradient' differentiates the reconstructor of the scans: give it "
            "as reconstructor"
        )
    network = make_reconstructor(reconstructor)
    if not network.is_differentiable:
        raise ValueError(
            "policy 'uncertainty-gradient' needs gradients with respect to masks; "
            f"{type(network).__name__} does not declare them (is_differentiable = True)"
        )

    def score(view: View) -> Tensor:
        whole = Operator(view.transform, torch.ones_like(view.mask), view.sensitivity)
        shown = whole.forward(view.reconstruction.image)
        samples = torch.where(view.mask[:, :, None, None], view.log.samples, shown)
        with torch.enable_grad():
            weights = view.mask.float().requires_grad_(True)
            operator = Operator(view.transform, weights, view.sensitivity)
            deviation = network(Measurement.of(samples, operator)).uncertainty
            if deviation is None or not deviation.requires_grad:
                raise ValueError(
                    "uncertainty-gradient needs a reconstructor with an uncertainty that follows "
                    "from the mask, e.g. cresnet"
                )
            entropy = deviation.clamp(min=torch.finfo(deviation.dtype).tiny).log().sum()
            (gradient,) = torch.autograd.grad(entropy, weights)
        return action_gains(-gradient, view)

    needs = frozenset({"uncertainty", "reconstructor", "grid"})
    return Greedy("uncertainty-gradient", score, Traits(needs=needs))


def principal_components(
    sampler: Reconstructor | None = None, *, n_components: int = N_COMPONENTS
) -> Greedy:
    """Takes the action that captures most of the leading components of posterior samples.

    Elata, Michaeli and Elad, Adaptive compressed sensing with diffusion-based posterior sampling
    (AdaSense), ECCV 2024, measure the principal components of the posterior themselves. A scanner
    measures readouts: the worth of one is the energy of the components on it, each as long as its
    standard deviation. With all components that is the variance of the samples, which
    `uncertainty-greedy` takes.

    Args:
        sampler: as of :func:`posterior_samples`.
        n_components: how many of the components count, those of largest variance.

    Raises:
        ValueError: for less than one component.
    """
    if n_components < 1:
        raise ValueError(f"expected at least one component; got n_components={n_components}")

    def score(view: View) -> Tensor:
        samples = posterior_samples(view, sampler)
        spread = samples - samples.mean(dim=1, keepdim=True)
        flat = spread.flatten(2).to(torch.complex128)
        # Of few samples the components are combinations: eigenvectors of a small matrix.
        _, vectors = torch.linalg.eigh(flat @ flat.mH / samples.shape[1])
        leading = vectors[:, :, -n_components:].mH @ flat / samples.shape[1] ** 0.5
        images = leading.unflatten(2, samples.shape[2:]).to(samples.dtype)
        energy = view.transform.energy(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return action_gains(energy.sum(dim=1), view)

    return Greedy("principal-components", score, Traits(needs=frozenset({"samples", "grid"})))


def action_gains(per_line: Tensor, view: View) -> Tensor:
    """Gains of actions from those of new lines: (batch, ..., n) to (batch, ..., n_actions)."""
    new = view.measurable & ~view.mask
    new = new.view(len(new), *(1,) * (per_line.ndim - 2), -1)
    return view.geometry.by_action(per_line.double() * new, "sum")


def noise_spectrum(view: View) -> Tensor:
    """P of :func:`line_variance`: float64 (batch, height or 1, width or 1), like a grid mask."""
    known = view.operator.grid_mask
    energy = cartesian(view.transform).grid_energy(view.zero_filled)
    total = energy.sum(dim=_AXES, keepdim=True)
    share = energy / torch.where(total > 0, total, torch.ones_like(total))
    distance = line_distances((known.shape[1], known.shape[2]), known.device)
    expected = power_law(share.flatten(1), known.flatten(1), distance)
    return expected.view_as(share).masked_fill(known, 0)


def posterior_samples(view: View, sampler: Reconstructor | None = None) -> Tensor:
    """Plausible images of every scan, complex (batch, sample, height, width).

    They are those that a reconstructor gives, where it draws any: ensembles, Monte-Carlo dropout,
    diffusion. Of a reconstructor with a standard deviation s per pixel alone, they are
    reconstruction + s n, without what that adds to acquired lines, whose samples are known. The
    noise n is stationary, Gaussian, of unit variance (for real and imaginary part each), has the
    spectrum P of :func:`line_variance`, and is the same for every scan and every time. It knows
    nothing of edges and aliasing.

    Args:
        view: what is known of the scans.
        sampler: asked for the samples; None takes what comes with the scans' own reconstructions.

    Raises:
        ValueError: if the reconstructor gives neither.
    """
    if sampler is not None:
        with torch.no_grad():
            drawn = sampler(view.measurement)
        view = replace(view, reconstruction=drawn)
    image, deviation = view.reconstruction.image, view.reconstruction.uncertainty
    if view.reconstruction.samples is not None:
        return view.reconstruction.samples
    if deviation is None:
        raise ValueError(
            "this policy needs a reconstructor that draws samples (an ensemble, Monte-Carlo "
            "dropout, diffusion), or at least one with an uncertainty, such as cresnet"
        )
    spectrum = noise_spectrum(view)
    mean = spectrum.mean(dim=_AXES, keepdim=True)
    filtered = (spectrum / torch.where(mean > 0, mean, torch.ones_like(mean))).sqrt().float()
    axes = tuple(axis for axis in fourier.IMAGE_AXES if filtered.shape[axis] > 1)
    generator = torch.Generator().manual_seed(0)  # of its own: the policy is not random
    draws = []
    for _ in range(N_DRAWN):
        white = torch.randn(image.shape[1:], dtype=image.dtype, generator=generator)
        noise = fourier.ifft(2**0.5 * filtered * white.to(image.device), axes)
        error = deviation * noise
        draws.append(image + error - view.operator.gram(error))
    return torch.stack(draws, dim=1)


def entropy_greedy(sampler: Reconstructor | None = None, *, sigma: float = SIGMA) -> Greedy:
    """Takes the lines about which posterior samples carry most information.

    The rule of Nolan et al., "Active Diffusion Subsampling", 2025: every posterior sample predicts
    what a line would measure; with Gaussian noise of standard deviation `sigma` these predictions
    are a Gaussian mixture, and the line whose mixture has the largest entropy is taken. Ours
    differs: an action of several lines is judged by the mixture of all its new lines together; with
    several coils predictions are those of every coil. `uncertainty-greedy` takes the variance of
    the same samples, which is what remains of the entropy if sigma is large.

    Args:
        sampler: draws the samples; None takes those of the scans' own reconstructions.
        sigma: standard deviation of the components, in units of the scan's scale. The smaller, the
            sooner samples count as entirely different, and lines beyond that as equals.

    Raises:
        ValueError: a sigma that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"expected a sigma above 0; got {sigma}")

    def score(view: View) -> Tensor:
        samples = posterior_samples(view, sampler)
        distances = action_gains(sample_distances(view, samples), view)
        unit = view.scale.double().clamp(min=torch.finfo(torch.float32).tiny).square()
        return mixture_entropy(distances / unit[:, None, None, None], sigma=sigma)

    return Greedy("entropy-greedy", score, Traits(needs=frozenset({"samples", "grid"})))


def mixture_entropy(distances: Tensor, *, sigma: float) -> Tensor:
    """Entropy of equal Gaussians around samples, beyond that of a single one, in nats.

    With squared distances d_ij^2 between N samples

        H = - 1/N sum_i log 1/N sum_j exp(-d_ij^2 / (2 sigma^2)),

    0 where all samples agree, log N where all are far apart, in between at most twice the true
    value and never below it (Kolchinsky and Tracey, Entropy 2017). The code of Nolan et al. has the
    opposite sign in the exponent and none in front: no entropy.

    Args:
        distances: squared, float64 (batch, sample, sample, item).
        sigma: standard deviation of each Gaussian along every axis, in the unit of the distances.

    Returns:
        float64 (batch, item).
    """
    density = torch.logsumexp(-distances / (2 * sigma**2), dim=2) - math.log(distances.shape[1])
    return -density.mean(dim=1)


def sample_distances(view: View, samples: Tensor) -> Tensor:
    """Squared distances of samples on every line: float64 (batch, sample, sample, n_lines).

    Summed over the readout and the coils.
    """
    maps, n_samples = view.sensitivity, samples.shape[1]
    coils = samples.unsqueeze(2) if maps is None else samples.unsqueeze(2) * maps.unsqueeze(1)
    shape = (len(samples), n_samples, n_samples, view.mask.shape[1])
    found = torch.zeros(shape, dtype=torch.float64, device=samples.device)
    for one in range(n_samples):
        for other in range(one):
            apart = coils[:, one] - coils[:, other]
            energy = torch.stack([view.transform.energy(coil) for coil in apart.unbind(1)]).sum(0)
            found[:, one, other] = found[:, other, one] = energy
    return found


def look_ahead(
    reconstructor: str | Path | Reconstructor | None,
    sampler: Reconstructor | None = None,
    *,
    metric: str = "ssim",
    n_actions: int = 8,
    n_samples: int = 4,
    depth: int = 1,
) -> Greedy:
    """Takes the action that would raise the score most if a posterior sample were the truth.

    For every sample x_s: what has been acquired stays, all else is what would be measured of x_s;
    each of the most promising actions is tried, the result reconstructed, and scored against the
    magnitude of x_s. The action with the best mean score over the samples is taken. With the truth
    as only sample it is the one-step oracle. It imagines ideal scans: where lines may be measured
    again, it takes new ones as long as there are any. It costs ``n_actions * n_samples``
    reconstructions an action, and with a depth of two about ``n_actions`` times that.

    Args:
        reconstructor: of the scans.
        sampler: as of :func:`posterior_samples`. One that knows more than the reconstructor makes
            looking ahead worth while.
        metric: what it maximises.
        n_actions: how many actions are tried: those on whose new lines the samples vary most.
        n_samples: how many samples are taken for the truth: the first ones.
        depth: actions to look ahead. After the first one, each sample's best of the remaining is
            taken, as if it were known by then which sample is the truth: an upper bound.

    Raises:
        ValueError: without a reconstructor, or for settings that make no sense.
    """
    if reconstructor is None:
        raise ValueError(
            "policy 'look-ahead' tries actions with the reconstructor of the scans: give it as "
            "reconstructor"
        )
    tries = make_reconstructor(reconstructor)
    if find_metric(metric).needs == "task":
        raise ValueError(f"look-ahead cannot maximise {metric!r}: samples have no label")
    if min(n_actions, n_samples, depth) < 1:
        raise ValueError(
            "expected at least one action, one sample and a depth of 1; got "
            f"n_actions={n_actions}, n_samples={n_samples}, depth={depth}"
        )

    def score(view: View) -> Tensor:
        samples = posterior_samples(view, sampler)
        drawn = replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))
        variance = action_gains(line_variance(drawn), drawn).masked_fill(~view.due, -torch.inf)
        best = variance.argsort(dim=1, descending=True, stable=True)[:, :n_actions]
        tried = torch.zeros_like(view.legal).scatter(1, best, True) & view.due
        samples = samples[:, :n_samples]
        of_all = tried.repeat_interleave(samples.shape[1], dim=0)
        values = _values(_imagined(view, samples, tries, metric), of_all, metric, depth=depth)
        means: Tensor = values.unflatten(0, samples.shape[:2]).mean(dim=1)
        return means

    traits = Traits(needs=frozenset({"samples", "reconstructor", "grid"}))
    return Greedy("look-ahead", score, traits)


def _imagined(view: View, samples: Tensor, reconstructor: Reconstructor, metric: str) -> Truth:
    """Scans as far as these, in which samples are the truth: one row a scan and sample."""
    transform, maps, n_samples = cartesian(view.transform), view.sensitivity, samples.shape[1]
    whole = Operator(transform, torch.ones_like(view.mask), maps)
    known = view.mask[:, :, None, None]
    kspace = torch.stack(
        [
            transform.grid(torch.where(known, view.log.samples, whole.forward(image)))
            for image in samples.unbind(1)
        ],
        dim=1,
    )
    targets = center_crop(samples, view.target_shape).abs()
    exists = transform.grid_mask(view.measurable)
    slices = [
        Slice(
            kspace[row, sample],
            targets[row, sample],
            volume=f"sample {sample}",
            index=row,
            subject="imagined",
            volume_max=float(targets[row, sample].max()),
            sensitivity=None if maps is None else maps[row],
            measured=exists[row].expand(samples.shape[2:]),
            roi=None if view.region is None else view.region[row],
        )
        for row in range(len(samples))
        for sample in range(n_samples)
    ]
    metrics, device = (metric,), view.mask.device
    scan = Scan(view.geometry, reconstructor, n_center_lines=0, metrics=metrics, device=device)
    start_masks, masks, budgets = (
        values.repeat_interleave(n_samples, dim=0)
        for values in (view.start_mask, view.mask, view.budget)
    )
    return Truth(scan, scan.resume(slices, start_masks=start_masks, masks=masks, budgets=budgets))


def _values(imagined: Truth, tried: Tensor, metric: str, *, depth: int) -> Tensor:
    """Best score that actions can lead to within so many steps: float64 (batch, n_actions)."""
    values = score_actions(imagined, tried, metric)
    if depth == 1:
        return values
    tried = tried & imagined.state.view.legal
    for action in tried.any(dim=0).nonzero().flatten().tolist():
        rows = tried[:, action].nonzero().flatten()
        taken = torch.full_like(rows, action)
        state = imagined.scan.acquire(imagined.state.select(rows), taken)
        left = tried[rows] & state.view.legal
        then = _values(Truth(imagined.scan, state), left, metric, depth=depth - 1)
        so_far = signed(state.scores[metric], metric)
        values[rows, action] = torch.where(left.any(dim=1), then.amax(dim=1), so_far)
    return values
