"""Plan of a benchmark: scans, reconstructors and policies, and the shards that it is cut into."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from torch import nn
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from activemri import __version__, checkpoints, files
from activemri.agents.oracles import ExchangeOracle
from activemri.agents.order import KINDS, OnStep, Order, fit_order
from activemri.agents.policy import Policy, Training, Traits, decide, require_played, unmet
from activemri.agents.registry import (
    POLICIES,
    make_policy,
    needs_fit,
    traits_of,
    without_wrapper,
)
from activemri.agents.rollout import batches_of_a_kind, prepare_starts, start_scans
from activemri.benchmark.statistics import CEILING
from activemri.benchmark.tuning import OnShare, Tuning, n_trials, tune
from activemri.data.contents import contents
from activemri.data.slices import Slice, SliceDataset, SliceInfo, SliceList
from activemri.data.views import subjects_of
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan, State, View
from activemri.evaluator import KIND as EVALUATOR
from activemri.evaluator import Evaluator, make_evaluator
from activemri.metrics import find_metric
from activemri.options import Compute, RunOptions, require_positive
from activemri.progress import track
from activemri.reconstruction.registry import RECONSTRUCTORS, WEIGHTS, describe
from activemri.stopping import conformal
from activemri.stopping.features import unit_of
from activemri.stopping.rule import StopSettings

if TYPE_CHECKING:
    from activemri.reconstruction.reconstructor import Reconstructor

    PolicyLike: TypeAlias = str | Path | Policy
    ReconstructorLike: TypeAlias = str | Path | Reconstructor
else:  # at the command line; objects can be given in Python alone
    PolicyLike = ReconstructorLike = str

log = logging.getLogger(__name__)

METRICS = ("ssim", "psnr", "nmse", "nrmse", "mse", "ssim_volume", "psnr_volume")
#: Policies that are compared where none are named, and oracles that come with them: zero-filled
#: images let the exact ones try every action, which with a network takes most of the time.
_DEFAULT_POLICIES = (
    "random", "low-frequency-first", "equispaced", "variable-density", "lbcs", "average-oracle",
)  # fmt: skip
_ZERO_FILLED_ORACLES, _NETWORK_ORACLES = ("oracle", "exchange-oracle"), ("screened-oracle",)

#: Scans of one shard: a benchmark that is interrupted loses at most one shard. Oracles take so
#: long that processes would wait for each other with more than one.
_SCANS_PER_SHARD, _SCANS_PER_ORACLE_SHARD = 8, 1
#: The order that the exchange oracle starts from where it is played too, and the usual reference.
_START = "lbcs"
_SHIPS_WITH_EVALUATOR = "cresnet"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Compare policies and reconstructors on the scans of one split.

    Writes results.parquet (one long table), summary.json and report.html. The same command
    started again continues where it was interrupted, and other policies or reconstructors may be
    added: what was played is read. The same seed gives the same numbers.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = ScanProtocol(split="test", budget=24)
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/benchmark"))
    compute: OmitArgPrefixes[Compute] = Compute()
    policies: Annotated[tuple[PolicyLike, ...], arg(metavar="NAME [NAME ...]")] = ()
    """Names of policies, files that `activemri train policy` or `train order` made, or
    package.module:object. Trainings of one policy with several seeds count as one:
    LABEL=PATH,PATH,PATH. With +re-acquire after a name or path, what the scanner objects to is
    measured again. () takes random, low-frequency-first, equispaced, variable-density, lbcs and
    average-oracle; with them oracle and exchange-oracle for zero-filled images, and screened-oracle
    where a network reconstructs."""
    reconstructors: Annotated[tuple[ReconstructorLike, ...], arg(metavar="NAME [NAME ...]")] = ()
    """Names of reconstructors, checkpoints, or package.module:object; () takes --reconstructor."""
    stop: StopSettings = StopSettings()
    n_seeds: int = 1
    """Seeds to run for policies that draw at random, from --seed on."""
    n_subjects: int | None = None
    """Phantom subjects to scan; None takes as many as the split usually has."""
    slices_per_volume: int | None = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    max_slices: int | None = None
    """Stop after this many slices, taken evenly over the split; None takes all."""
    max_oracle_slices: int | None = None
    """The same for oracles, which try every action: a part of the other policies' slices."""
    fit_data: str | None = None
    """Data whose train split learned orders (lbcs, lbcs-final, average-oracle) are fitted on; None
    takes --data."""
    n_fit_scans: int | None = 64
    """Train scans that each step of a learned order is decided on, drawn anew; None takes all."""
    max_fit_slices: int | None = 256
    """Train scans, spread evenly, that learned orders see at all; None takes all."""
    tune_scans: int | None = None
    """Scans of the val split that settings of cg-sense, wavelet and total-variation (of all
    reconstructors with a grid) are tuned on, for each policy; None takes the default ones."""
    reference: str = _START
    """Policy that the others are compared with in paired tests."""
    metric: str | None = None
    """Metric that greedy policies maximise and the report shows first; None takes the one that
    --reward is about."""
    workers: int = 1
    """Processes side by side."""
    verify_data: FlagCreatePairsOff[bool] = False
    """Read all files of scans anew, instead of trusting their sizes and times, to tell whether they
    are those that were played before."""

    def __post_init__(self) -> None:
        for name in ("policies", "reconstructors"):
            parts: list[object] = []
            for one in getattr(self, name):
                # Commas hold names together, but belong to LABEL=PATH,PATH and to paths that exist.
                whole = not isinstance(one, str) or "=" in one or Path(one).exists()
                parts += [one] if whole else filter(None, one.split(","))
            object.__setattr__(self, name, tuple(parts))
        require_positive(slices_per_volume=self.slices_per_volume, max_slices=self.max_slices)
        require_positive(max_oracle_slices=self.max_oracle_slices, n_seeds=self.n_seeds)
        require_positive(n_subjects=self.n_subjects)
        require_positive(n_fit_scans=self.n_fit_scans, max_fit_slices=self.max_fit_slices)
        require_positive(workers=self.workers, tune_scans=self.tune_scans)


@dataclass(frozen=True)
class Shard:
    """Some scans with one policy, one reconstructor and one seed.

    Attributes:
        split: of the scans that stopping rules are made with; empty for scored scans.
        part: file of its rows of the long table; None if it is not scored.
        quality: file of the same with features, which stopping rules need; None without a rule.
    """

    reconstructor: str
    policy: str
    seed: int
    positions: tuple[int, ...]
    split: str = ""
    part: Path | None = None
    quality: Path | None = None


@dataclass(frozen=True, eq=False)
class Scans:
    """The scans of a split, and the positions of those that are played."""

    dataset: SliceDataset
    positions: tuple[int, ...]

    def describe(self) -> list[SliceInfo]:
        """The scans that are played, without samples."""
        return [self.dataset.describe(position) for position in self.positions]

    @property
    def subjects(self) -> set[str]:
        return {info.subject for info in self.describe()}


class Plan:
    """A benchmark, prepared: data opened, networks loaded, names checked.

    Raises:
        ValueError: for unknown names, two policies or reconstructors with one label, or scans that
            would be scored by policies that have seen them.
        FileNotFoundError: for data or checkpoints that are not there.
    """

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings
        self.protocol = settings.protocol
        self.metric = settings.metric or self.protocol.metric
        find_metric(self.metric)
        self.stop = replace(settings.stop, metric=settings.stop.metric or self.metric)
        device = settings.compute.prepare()
        given = settings.reconstructors or (self.protocol.reconstructor,)
        self.reconstructors = label_reconstructors(given)
        dataset = self.protocol.dataset(
            slices_per_volume=settings.slices_per_volume, n_subjects=settings.n_subjects
        )
        positions = evenly_spaced(range(len(dataset)), settings.max_slices)
        self.scored = Scans(dataset, tuple(positions))
        metrics = tuple(dict.fromkeys((*METRICS, self.metric, *self.protocol.metrics)))
        self.acquisitions: dict[str, Scan] = {}
        self.evaluators: dict[str, Evaluator | None] = {}
        self._tuned: dict[tuple[str, str], Scan] = {}  # by policy and reconstructor
        for label, one in self.reconstructors.items():
            protocol = replace(self.protocol, reconstructor=one, metrics=metrics)
            self.acquisitions[label] = protocol.scan(dataset, device=device)
            self.evaluators[label] = paired_evaluator(one, dataset.shape[1])
        oracles = _NETWORK_ORACLES if self.has_network else _ZERO_FILLED_ORACLES
        self.policies = label_policies(settings.policies or (*_DEFAULT_POLICIES, *oracles))
        # A fraction of the readouts by their number.
        self.budget = next(iter(self.acquisitions.values())).budget
        #: By label: traits, and the kind of order that a policy needs to be fitted, if any.
        self.traits: dict[str, Traits] = {}
        self.orders: dict[str, str] = {}
        self._check_policies()
        if settings.reference not in (*self.policies, _START):  # the default may be absent
            raise ValueError(
                f"the reference {settings.reference!r} is not among the policies: "
                f"{', '.join(self.policies)}"
            )
        #: Scans that orders are learned on.
        self.train: Scans | None = None
        self._fit_scans: SliceList | None = None
        if self.orders:
            self.train = self._open(
                "train",
                settings.max_fit_slices,
                use=f"learned orders ({', '.join(KINDS)})",
                hint="Choose another --split or --fit-data, or an order's file as the policy",
                data=settings.fit_data,
            )
        #: Scans that reconstructors are tuned on.
        self.tuning: Scans | None = None
        if settings.tune_scans is not None:
            hint = "Choose another --split, or leave --tune-scans out"
            self.tuning = self._open("val", settings.tune_scans, use="--tune-scans", hint=hint)
            if not self.tuned():
                raise ValueError(
                    "--tune-scans: expected a reconstructor with a grid of settings, as cg-sense, "
                    f"wavelet and total-variation; got {', '.join(self.reconstructors)}"
                )
        self._started: tuple[object, tuple[list[Slice], list[State]]] | None = None
        #: Scans by split that stopping rules are fitted to and calibrated on.
        self.stopping = self._open_stopping() if self.stop.target is not None else {}
        for split in self.stop.calibration_splits if self.stopping else ():
            tuning = set() if self.tuning is None else self.tuning.subjects
            if shared := _named(self.stopping[split].subjects & tuning):
                raise ValueError(
                    f"--tune-scans: subjects of the val split calibrate the stopping rule: {shared}"
                    ". Choose another --stop.calibration, or leave --tune-scans out"
                )

    @property
    def has_network(self) -> bool:
        """A reconstructor is a network, of which every image takes its time."""
        scans = self.acquisitions.values()
        return not all(scan.reconstructor.is_zero_filled for scan in scans)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Marks of what settings only name: package version, weights, order files, the scans."""
        marks = {"version": __version__, "scans": files.digest(repr(self.scored.describe()))[:16]}
        if self.tuning is not None:
            marks["tuning"] = files.digest(repr(self.tuning.describe()))[:16]
        for label, acquisition in self.acquisitions.items():
            network = acquisition.reconstructor
            try:
                kind = json.dumps(describe(network))  # some settings change no weights
            except ValueError:  # a user's own class: its settings as they print
                own = type(network)
                kind = f"{own.__module__}.{own.__qualname__} {network.settings}"
            if self.tuning is not None:
                kind += f" {type(network).grid}"
            mark = files.digest(f"{kind} {_digest_of_weights(network)}")
            marks[f"reconstructor {label}"] = mark[:16]
        for label, evaluator in self.evaluators.items():
            if evaluator is not None:
                marks[f"evaluator {label}"] = _digest_of_weights(evaluator)
        for label, members in self.policies.items():
            held = [_digest_of_files(member) or str(member) for member in members]
            if label in self.orders and not needs_fit(members[0]):
                held.append(self.orders[label])
            marks[f"policy {label}"] = " ".join(held)
        return marks

    @property
    def described_protocol(self) -> str:
        """Everything else than scans, policies and reconstructors that decides scores, as JSON."""
        other = ("data", "split", "reconstructor", "metrics")
        changes = {k: v for k, v in self.protocol.changes.items() if k not in other}
        changes |= {"budget": self.budget, "metric": self.metric}
        return json.dumps(changes, sort_keys=True, default=lambda part: type(part).__qualname__)

    def contents(self, *, anew: bool = False) -> dict[str, str]:
        """Marks of the content of all scans that are played, see :mod:`activemri.data.contents`."""
        marks: dict[str, str] = {}
        for scans in filter(None, (self.scored, self.tuning, *self.stopping.values())):
            marks |= contents(scans.dataset, scans.positions, anew=anew)
        return marks

    def policy(
        self, label: str, reconstructor: str, *, order: Order | None, seed: int | None = None
    ) -> Policy:
        """The policy of a label, with its order, a reconstructor (by label) and its evaluator.

        Of several trainings the seed names the one to take; None takes the first.
        """
        members = self.policies[label]
        member = 0 if seed is None else (seed - self.settings.run.seed) % len(members)
        return make_policy(
            members[member],
            metric=self.metric,
            order=order,
            evaluator=self.evaluators[reconstructor],
            reconstructor=self.acquisition(label, reconstructor).reconstructor,
        )

    def acquisition(self, policy: str, reconstructor: str) -> Scan:
        """The scans of a reconstructor, with the settings that were tuned for a policy, if any."""
        return self._tuned.get((policy, reconstructor), self.acquisitions[reconstructor])

    def tuned(self) -> list[tuple[str, str]]:
        """Policies and reconstructors that are tuned together."""
        if self.tuning is None:
            return []
        own = [one for one in self.reconstructors if n_trials(self.acquisitions[one].reconstructor)]
        return list(product(self.policies, own))

    def tune(self, policy: Policy, labels: tuple[str, str], *, tell: OnShare) -> Tuning:
        """Tune a reconstructor for a policy, by the labels of both, with the first seed."""
        assert self.tuning is not None
        return tune(
            self.acquisitions[labels[1]],
            policy,
            [self.tuning.dataset[position] for position in self.tuning.positions],
            metric=self.metric,
            labels=labels,
            seed=self.settings.run.seed,
            tell=tell,
        )

    def use(self, tuning: Tuning) -> None:
        """Score scans with these settings from now on."""
        key = tuning.policy, tuning.reconstructor
        self._tuned.setdefault(key, tuning.apply(self.acquisitions[key[1]]))

    def learn_order(self, kind: str, reconstructor: str, *, on_step: OnStep | None = None) -> Order:
        """Learn an order on the train split, for one reconstructor."""
        assert self.train is not None
        if self._fit_scans is None:
            dataset, name = self.train.dataset, self.train.dataset.name
            chosen = track(self.train.positions, f"load {name}", unit="slice")
            self._fit_scans = SliceList([dataset[position] for position in chosen], name=name)
        # The frame is that of the scans to be acquired, so that actions mean the same.
        acquisition = replace(self.acquisitions[reconstructor], metrics=(self.metric,))
        begin = time.monotonic()
        order = fit_order(
            kind,
            acquisition,
            self._fit_scans,
            metric=self.metric,
            n_lines=acquisition.budget,
            n_scans=self.settings.n_fit_scans,
            seed=self.settings.run.seed,
            on_step=on_step,
            data=f"{self.settings.fit_data or self.protocol.data} train",
        )
        return order.timed(self._fit_scans, time.monotonic() - begin)

    def trainings(self) -> list[dict[str, object]]:
        """Records of what made each policy that has learned, ready for JSON: a row a training.

        Orders that the benchmark learned are read from its folder. Entries are those of
        :class:`activemri.agents.policy.Training`, None where a file has no record.
        """
        folder, rows = self.settings.run.out / "orders", list[dict[str, object]]()
        empty = {entry.name: None for entry in fields(Training)}
        for label, members in self.policies.items():
            for member in members:
                made: list[Any] = []
                if isinstance(member, str) and needs_fit(member):
                    paths = [folder / f"{member}-{name}.json" for name in self.reconstructors]
                    made += [Order.load(path) for path in paths if path.exists()]
                else:
                    made.append(self.policy(label, next(iter(self.reconstructors)), order=None))
                for policy in made:
                    if (info := getattr(policy, "info", None)) is not None:
                        rows.append({"policy": label, **empty, **info.get("training", {})})
        return rows

    def shards(self, split: str = "") -> Iterator[Shard]:
        """Everything that is scored, in the order of the table.

        Of a split of :attr:`stopping` what rules need of it, with the first seed alone.
        """
        options, scans = self.settings, self.scans(split)
        first, out = options.run.seed, options.run.out
        folder = "scored"
        if split:  # other scans have another folder
            folder = f"{split}-{files.digest(repr(scans.describe()))[:8]}"
        for reconstructor in self.reconstructors:
            for policy, members in self.policies.items():
                traits, positions, size = self.traits[policy], scans.positions, _SCANS_PER_SHARD
                # One for each training of a policy; n_seeds if it acts by chance.
                n_seeds = max(options.n_seeds if traits.is_random else 1, len(members))
                if traits.is_oracle:
                    size = _SCANS_PER_ORACLE_SHARD
                    positions = tuple(evenly_spaced(positions, options.max_oracle_slices))
                if split:
                    n_seeds = 0 if traits.is_oracle else 1
                for seed in range(first, first + n_seeds):
                    for batch in batches_of_a_kind(scans.dataset, positions, size):
                        name = f"seed{seed}-{batch[0]:06d}-{len(batch)}.parquet"
                        file = Path(reconstructor) / policy / name
                        part = None if split else out / "parts" / file
                        quality = None
                        if self.stopping and not traits.is_oracle:
                            quality = out / "quality" / folder / file
                        yield Shard(reconstructor, policy, seed, tuple(batch), split, part, quality)

    def ceilings(self) -> Iterator[Shard]:
        """All scored scans with every readout, for each reconstructor."""
        seed, folder = self.settings.run.seed, self.settings.run.out / "ceilings"
        for label in self.reconstructors:
            dataset, positions = self.scored.dataset, self.scored.positions
            for batch in batches_of_a_kind(dataset, positions, _SCANS_PER_SHARD):
                file = folder / label / f"{batch[0]:06d}-{len(batch)}.parquet"
                yield Shard(label, CEILING, seed, tuple(batch), part=file)

    def started(self, shard: Shard) -> tuple[list[Slice], list[State]]:
        """The slices of a shard, and what `rollout` starts from.

        They are kept until others are asked for, so that a slice is read and prepared once for all
        policies and seeds that follow each other.
        """
        scan = self.acquisition(shard.policy, shard.reconstructor)
        seed = shard.seed if scan.starts_by_chance else None
        key = (scan, shard.split, shard.positions, seed)
        if self._started is None or self._started[0] != key:
            dataset = self.scans(shard.split).dataset
            slices = [dataset[position] for position in shard.positions]
            self._started = key, (slices, prepare_starts(scan, slices, seed=shard.seed))
        return self._started[1]

    def described(self, shard: Shard) -> list[SliceInfo]:
        """The scans of a shard, without samples."""
        dataset = self.scans(shard.split).dataset
        return [dataset.describe(position) for position in shard.positions]

    def scans(self, split: str = "") -> Scans:
        """Those that are scored, or of a split of :attr:`stopping`."""
        return self.stopping[split] if split else self.scored

    def _check_policies(self) -> None:
        """Refuse now what would fail in the middle: a misfit of order, network and scans."""
        views: dict[str, View] = {}  # of the first scan, by reconstructor
        for (label, members), reconstructor in product(self.policies.items(), self.reconstructors):
            scan = self.acquisitions[reconstructor]
            if kind := needs_fit(members[0]):
                traits = traits_of(members[0], scanner=scan.scanner)
                self.traits[label], self.orders[label] = traits, kind
                if lacking := unmet(traits, scan):
                    raise ValueError(f"policy {label!r} needs {lacking}")
                continue
            for member, given in enumerate(members):
                seed = self.settings.run.seed + member
                policy = self.policy(label, reconstructor, order=None, seed=seed)
                self.traits.setdefault(label, policy.traits)
                if isinstance(policy, ExchangeOracle) and (_START,) in self.policies.values():
                    self.orders[label] = _START  # else it starts from low frequencies
                require_played(policy, scan)
                played = self.reconstructors[reconstructor]
                network = scan.reconstructor
                if other := learned_for(policy, played, network):
                    log.warning(
                        "%s was learned for %s, and is played with %s", label, other, reconstructor
                    )
                if "evaluator" in policy.traits.needs and self.evaluators[reconstructor] is None:
                    log.warning(
                        "%s: no evaluator lies beside reconstructor %s; the one that comes with "
                        "the package is used, which was trained on phantoms and another "
                        "reconstructor",
                        label,
                        reconstructor,
                    )
                if policy.traits.needs or given not in POLICIES:
                    if reconstructor not in views:
                        scans = [self.scored.dataset[self.scored.positions[0]]]
                        start = start_scans(scan, scans, seed=self.settings.run.seed)
                        views[reconstructor] = start.view
                    try:
                        decide(policy, views[reconstructor], [np.random.default_rng(0)])
                    except ValueError as error:
                        raise ValueError(
                            f"{label} with reconstructor {reconstructor}: {error}"
                        ) from error

    def _open(
        self, split: str, most: int | None, *, use: str, hint: str, data: Any = None, **more: Any
    ) -> Scans:
        """Scans to learn from, of other subjects than the scored ones, that their frame holds."""
        protocol = self.protocol if data is None else replace(self.protocol, data=data)
        try:
            dataset = protocol.dataset(split, **more)
        except ValueError as error:
            raise ValueError(f"{use}: {error}. {hint}") from error
        if shared := _named(set(subjects_of(dataset)) & self.scored.subjects):
            raise ValueError(
                f"{use}: subjects of the {split} split are scored as well: {shared}. {hint}"
            )
        height, width = self.scored.dataset.shape
        shapes = [dataset.describe(i).shape for i in range(len(dataset))]
        fitting = [i for i, (h, w) in enumerate(shapes) if h <= height and w <= width]
        if not fitting:
            raise ValueError(
                f"{use}: no scan of {dataset.name} fits into {(height, width)}; pass --matrix-size "
                "to bring all scans to one size"
            )
        if n_larger := len(dataset) - len(fitting):
            log.warning(
                "%s: %d of %d scans of %s are larger than %s and left out",
                *(use, n_larger, len(dataset), dataset.name, (height, width)),
            )
        return Scans(dataset, tuple(evenly_spaced(fitting, most)))

    def _open_stopping(self) -> dict[str, Scans]:
        stop, found = self.stop, {}
        hint = "Choose another --split, --stop.fit or --stop.calibration"
        wanted = stop.fit_subjects, stop.calibration_subjects
        for split, n_subjects in zip(stop.splits, wanted, strict=True):
            most = stop.max_slices and max(stop.max_slices, n_subjects or 0)
            found[split] = self._open(
                split,
                most,
                use="--stop",
                hint=hint,
                slices_per_volume=self.settings.slices_per_volume,
                n_subjects=n_subjects,
            )
        if not stop.is_crossfit:
            fit, calibration = found[stop.fit].subjects, found[stop.calibration].subjects
            if shared := _named(fit & calibration):
                raise ValueError(
                    f"--stop: subjects of the {stop.calibration} split are in the {stop.fit} split "
                    f"as well: {shared}. {hint}"
                )
        units = {
            unit_of(info, stop.unit)
            for split in stop.calibration_splits
            for info in found[split].describe()
        }
        conformal.check_units(len(units), stop.alpha, unit=stop.unit)
        return found


def label_reconstructors(given: Sequence[ReconstructorLike]) -> dict[str, ReconstructorLike]:
    """Names, paths and objects by short labels; two of one label are a ValueError."""
    labels: dict[str, ReconstructorLike] = {}
    for one in given:
        label = _label(one) if isinstance(one, str | Path) else type(one).__name__
        if label in labels:
            raise _same_label(label, labels[label], one)
        labels[label] = one
    return labels


def label_policies(given: Sequence[PolicyLike]) -> dict[str, tuple[PolicyLike, ...]]:
    """The names, paths or objects that short labels of policies stand for.

    ``LABEL=PATH,PATH,PATH`` stands for one policy that was trained with several seeds; so do
    ``LABEL=PATH LABEL=PATH LABEL=PATH``, which is what a shell makes of ``LABEL=run-{0,1,2}``.

    Raises:
        ValueError: for two policies of one label, and for built-in policies under another name.
    """
    found: dict[str, tuple[PolicyLike, ...]] = {}
    grouped: set[str] = set()
    for one in given:
        members: tuple[PolicyLike, ...] = (one,)
        label, equals, paths = str(one).partition("=")
        # A path may hold an equals sign.
        is_group = isinstance(one, str | Path) and bool(equals) and not {"/", "\\"} & set(label)
        if is_group:
            members = tuple(paths.split(","))
            if not label or not all(members):
                raise ValueError(f"expected LABEL=PATH or LABEL=PATH,PATH,PATH; got {str(one)!r}")
            names = map(without_wrapper, (label, *map(str, members)))
            if known := [name for name in names if name in POLICIES]:
                raise ValueError(
                    f"{str(one)!r}: {known[0]!r} is a built-in policy, which keeps its name and "
                    "has no other; a label stands for files of trained policies"
                )
        else:
            label = _label(one) if isinstance(one, str | Path) else one.name
        if label in found and not (is_group and label in grouped):
            raise _same_label(label, ",".join(map(str, found[label])), one)
        if is_group:
            grouped.add(label)
        found[label] = (*found.get(label, ()), *members)
        if len(set(map(str, found[label]))) < len(found[label]):
            raise ValueError(
                f"{label!r} holds the same file twice: {', '.join(map(str, found[label]))}"
            )
    return found


def learned_for(policy: Policy, played: ReconstructorLike, network: "Reconstructor") -> str:
    """Another reconstructor that a policy was learned for, as its file says; empty for none."""
    if isinstance(policy, Order):
        return "" if policy.reconstructor == type(network).__name__ else policy.reconstructor
    info: Mapping[str, object] = getattr(policy, "info", {})
    given = str(info.get("reconstructor", played))
    return given if given != str(played) and {given, str(played)} <= {*RECONSTRUCTORS} else ""


def paired_evaluator(reconstructor: ReconstructorLike, n_lines: int) -> Evaluator | None:
    """The evaluator trained with a reconstructor: the one beside its checkpoint, if it fits."""
    if not isinstance(reconstructor, str | Path):
        return None
    path = Path(reconstructor)
    if reconstructor == _SHIPS_WITH_EVALUATOR:
        path = WEIGHTS / reconstructor
    elif str(reconstructor) in RECONSTRUCTORS:
        return None
    folder = path if path.is_dir() else path.parent
    if not (folder / f"{EVALUATOR}.safetensors").is_file():
        return None
    found = make_evaluator(folder / EVALUATOR)
    if found.width < n_lines:
        words = "%s scores %d lines, and these scans have %d: it is left out"
        log.warning(words, folder / EVALUATOR, found.width, n_lines)
        return None
    return found


def _label(name: str | Path) -> str:
    """A name as it is; of a path the stem, or the folder if the file is just called best."""
    inner = without_wrapper(name)
    path = Path(inner.rpartition(":")[2])  # of package.module:object the object
    stem = path.stem if path.suffix in (".safetensors", ".json") else path.name
    stem = path.parent.name if stem in ("best", "last") and path.parent.name else stem
    return stem + str(name).removeprefix(inner)


def _same_label(label: str, first: object, second: object) -> ValueError:
    return ValueError(
        f"{str(first)!r} and {str(second)!r} would both be called {label!r} in the results; "
        "rename one of the files"
    )


def _named(subjects: set[str]) -> str:
    """The first few of them."""
    return ", ".join(sorted(subjects)[:5]) + (" ..." if len(subjects) > 5 else "")


def _digest_of_files(member: PolicyLike) -> str:
    """A mark of what the files of an order or a checkpoint hold; empty for everything else."""
    if not isinstance(member, str | Path) or str(member) in POLICIES:
        return ""
    path = Path(without_wrapper(member))
    stem = checkpoints.without_suffix(path)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".json", ".safetensors")]
    if path.is_dir():
        paths = sorted([*path.glob("*.json"), *path.glob("*.safetensors")])
    content = b"".join(path.read_bytes() for path in paths if path.is_file())
    return files.digest(content)[:16] if content else ""


def _digest_of_weights(network: nn.Module) -> str:
    weights = network.state_dict().values()
    return files.digest(b"".join(value.cpu().numpy().tobytes() for value in weights))[:16]
