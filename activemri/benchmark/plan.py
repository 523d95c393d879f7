"""What a benchmark runs: scans, reconstructors, policies, and the pieces that it is cut into."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from activemri import __version__
from activemri.agents.oracles import ExchangeOracle
from activemri.agents.order import LEARNERS, FixedOrder, Order
from activemri.agents.policy import Policy, Traits
from activemri.agents.quality import Features
from activemri.agents.registry import POLICIES, make_policy, needs_fit
from activemri.agents.rollout import batches_of_a_kind, start_scans
from activemri.benchmark.entrants import (
    digest,
    digest_of_files,
    digest_of_weights,
    label_policies,
    label_reconstructors,
    paired_evaluator,
)
from activemri.benchmark.free_budget import Returns
from activemri.benchmark.scenario import Scenario
from activemri.benchmark.stopping import StoppingScans
from activemri.data.index import progress
from activemri.data.slices import SliceDataset, SliceInfo, SliceList
from activemri.data.volumes import evenly_spaced
from activemri.envs.scan import Scan, View
from activemri.metrics import find_metric
from activemri.reconstruction.registry import describe
from activemri.settings import BenchmarkSettings
from activemri.settings.stopping import parse_stop

log = logging.getLogger(__name__)

METRICS = ("ssim", "psnr", "nmse", "nrmse", "mse", "ssim_volume", "psnr_volume")

#: Scans of one piece: a benchmark that is interrupted loses at most one piece.
_SCANS_PER_PIECE = 8
#: The order that the exchange oracle starts from where it is played too.
_START = "lbcs"


@dataclass(frozen=True)
class Piece:
    """Some scans with one policy, one reconstructor and one seed.

    Attributes:
        reconstructor: its label in tables.
        policy: its label in tables.
        seed: of random policies.
        positions: which scans of the data set.
        split: whose scans, for those that stopping rules are made with; empty for scored scans.
    """

    reconstructor: str
    policy: str
    seed: int
    positions: tuple[int, ...]
    split: str = ""

    @property
    def file(self) -> Path:
        """Where its part of the long table goes, relative to the folder of parts."""
        name = f"seed{self.seed}-{self.positions[0]:06d}-{len(self.positions)}.parquet"
        return Path(self.reconstructor) / self.policy / name


class Plan:
    """A benchmark, prepared: data opened, networks loaded, names checked.

    Args:
        settings: what to run.

    Raises:
        ValueError: for unknown names, or two policies or reconstructors with one label.
        FileNotFoundError: for data or checkpoints that are not there.
    """

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings
        self.scenario = Scenario.of(settings)
        find_metric(self.metric)
        self.reconstructors = label_reconstructors(self.scenario.reconstructors)
        self.policies = label_policies(settings.policies)
        self.dataset = self.scenario.dataset(
            settings.split, slices_per_volume=settings.slices_per_volume
        )
        self.positions = evenly_spaced(range(len(self.dataset)), settings.max_slices)
        self.acquisitions = {
            label: self._acquisition(name, self.dataset)
            for label, name in self.reconstructors.items()
        }
        # A fraction of the lines by their number.
        lines = next(iter(self.acquisitions.values())).budget
        self.scenario = replace(self.scenario, budget=lines)
        self.evaluators = {
            label: paired_evaluator(name, self.dataset.shape[1])
            for label, name in self.reconstructors.items()
        }
        for label, members in self.policies.items():
            if not needs_fit(members[0]):
                for member in range(len(members)):
                    for reconstructor in self.reconstructors:
                        self._check_policy(label, reconstructor, member)
        _check_reference(settings.reference, list(self.policies))
        if any(self.orders_needed(label) for label in self.policies):
            self._refuse_shared_subjects()
        stop = parse_stop(settings.stop)
        self.stopping = (
            StoppingScans(
                stop, settings, self.scenario, scored=self.describe(), frame=self.dataset.shape
            )
            if stop is not None
            else None
        )

    @property
    def metric(self) -> str:
        """The score that greedy policies maximise."""
        return self.scenario.metric

    @property
    def returns(self) -> Returns | None:
        """What a scan gains less what it costs, where actions have a price."""
        price = self.scenario.step_cost
        return Returns(self.metric, price) if price > 0 else None

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the settings only name: package version, weights, order files, the scans."""
        marks = {"version": __version__, "scans": digest(repr(self.describe()).encode())}
        for label, acquisition in self.acquisitions.items():
            network = acquisition.reconstructor
            kind = json.dumps(describe(network))  # some settings change the result, not the weights
            mark = digest(f"{kind} {digest_of_weights(network)}".encode())
            marks[f"reconstructor {label}"] = mark
        for label, evaluator in self.evaluators.items():
            if evaluator is not None:
                marks[f"evaluator {label}"] = digest_of_weights(evaluator)
        for label, members in self.policies.items():
            held = [digest_of_files(member) or member for member in members]
            if not needs_fit(members[0]):
                held += self.orders_needed(label)
            marks[f"policy {label}"] = " ".join(held)
        return marks

    def policy(
        self, label: str, reconstructor: str, *, order: Order | None, seed: int | None = None
    ) -> Policy:
        """The policy of that label, with its order and the reconstructor's evaluator.

        Args:
            label: in tables.
            reconstructor: its label.
            order: for policies that need one.
            seed: which of several trainings to take; None takes the first.
        """
        members = self.policies[label]
        member = 0 if seed is None else (seed - self.settings.seed) % len(members)
        return make_policy(
            members[member],
            metric=self.metric,
            order=order,
            evaluator=self.evaluators[reconstructor],
            reconstructor=self.acquisitions[reconstructor].reconstructor,
        )

    def orders_needed(self, label: str) -> list[str]:
        """Kinds of order that a policy needs to be fitted.

        The exchange oracle starts from the fixed order if that is played too, else from low
        frequencies.
        """
        if self._needs_fit(label):
            return [self.policies[label][0]]
        starts = isinstance(self._first(label), ExchangeOracle)
        return [_START] if starts and (_START,) in self.policies.values() else []

    def learn_order(self, kind: str, reconstructor: str) -> Order:
        """Learn an order on the train split, for one reconstructor."""
        scans = self._fit_scans
        learner = LEARNERS[kind]
        # The frame is that of the scans to be acquired, so that actions mean the same.
        acquisition = replace(self.acquisitions[reconstructor], metrics=(self.metric,))
        return learner(
            acquisition,
            scans,
            metric=self.metric,
            n_lines=acquisition.budget,
            n_scans=self.settings.n_fit_scans,
            seed=self.settings.seed,
            progress=self.settings.workers == 1,
            data=f"{self.settings.fit_data or self.scenario.data} train",
        )

    def pieces(self) -> Iterator[Piece]:
        """Everything to be run, in order."""
        batches = list(batches_of_a_kind(self.dataset, self.positions, _SCANS_PER_PIECE))
        for reconstructor in self.reconstructors:
            for policy in self.policies:
                for seed in self._seeds(policy):
                    for batch in batches:
                        yield Piece(reconstructor, policy, seed, tuple(batch))

    def stopping_pieces(self) -> Iterator[Piece]:
        """What stopping rules need besides, with the first seed only."""
        if self.stopping is None:
            return
        for split, scans in self.stopping.by_split.items():
            batches = list(batches_of_a_kind(scans.dataset, scans.positions, _SCANS_PER_PIECE))
            for reconstructor in self.reconstructors:
                for policy in self.stoppable:
                    for batch in batches:
                        seed = self.settings.seed
                        yield Piece(reconstructor, policy, seed, tuple(batch), split)

    @cached_property
    def stoppable(self) -> list[str]:
        """Labels of the policies that may get a stopping rule: all but oracles."""
        return [label for label, traits in self.traits.items() if not traits.is_oracle]

    @cached_property
    def drawn(self) -> list[str]:
        """Labels of the policies that act by chance."""
        return [label for label, traits in self.traits.items() if traits.is_random]

    @cached_property
    def traits(self) -> dict[str, Traits]:
        """Traits of the policies, by label."""
        return {
            label: FixedOrder.traits if self._needs_fit(label) else self._first(label).traits
            for label in self.policies
        }

    def scans_of(self, piece: Piece) -> SliceDataset:
        """The data set that a piece's positions are of."""
        if not piece.split:
            return self.dataset
        assert self.stopping is not None
        return self.stopping.by_split[piece.split].dataset

    def part(self, piece: Piece) -> Path | None:
        """Where a piece's rows of the long table go, if it has any."""
        return None if piece.split else self.settings.out / "parts" / piece.file

    def quality_part(self, piece: Piece) -> Path | None:
        """Where the curves of a piece go that stopping rules need, if they do."""
        if self.stopping is None or piece.policy not in self.stoppable:
            return None
        folder = (
            self.stopping.by_split[piece.split].folder if piece.split else Path("quality", "scored")
        )
        return self.settings.out / folder / piece.file

    def features(self, reconstructor: str) -> Features:
        """What predictors of quality may look at."""
        return Features(self.evaluators[reconstructor])

    def describe(self) -> list[SliceInfo]:
        """The scans of the benchmark, without samples."""
        return [self.dataset.describe(position) for position in self.positions]

    def _seeds(self, label: str) -> range:
        """One for each training of a policy; as many as wanted if it acts by chance."""
        first = self.settings.seed
        n_drawn = self.settings.n_seeds if label in self.drawn else 1
        return range(first, first + max(n_drawn, len(self.policies[label])))

    def _needs_fit(self, label: str) -> bool:
        return needs_fit(self.policies[label][0])

    @cache  # noqa: B019 - a plan lives as long as the process
    def _first(self, label: str) -> Policy:
        """The policy of that label, to ask what it is."""
        return self.policy(label, next(iter(self.reconstructors)), order=None)

    def _acquisition(self, reconstructor: str, dataset: SliceDataset) -> Scan:
        metrics = tuple(dict.fromkeys((*METRICS, self.metric)))
        task = self.scenario.task(dataset, reconstructor=reconstructor, metrics=metrics)
        return task.scan(dataset)

    def _check_policy(self, label: str, reconstructor: str, member: int) -> None:
        """Refuse now what would fail in the middle: a misfit of order, network and scans."""
        seed = self.settings.seed + member
        policy = self.policy(label, reconstructor, order=None, seed=seed)
        if isinstance(policy, FixedOrder):
            for acquisition in self.acquisitions.values():
                policy.order.check(acquisition.geometry)
        name = self.policies[label][member]
        if "evaluator" in policy.traits.needs and self.evaluators[reconstructor] is None:
            log.warning(
                "%s: no evaluator lies beside reconstructor %s; it asks the one that comes with "
                "the package, which was trained on phantoms and another reconstructor",
                label,
                reconstructor,
            )
        if policy.traits.needs or name not in POLICIES:
            try:
                policy.act(self._start_view(reconstructor), [np.random.default_rng(0)])
            except ValueError as error:
                raise ValueError(f"{label} with reconstructor {reconstructor}: {error}") from error

    @cache  # noqa: B019
    def _start_view(self, reconstructor: str) -> View:
        """What a policy sees of the first scan."""
        acquisition = self.acquisitions[reconstructor]
        first = [self.dataset[self.positions[0]]]
        return start_scans(acquisition, first, seed=self.settings.seed).view

    @cached_property
    def _train(self) -> SliceDataset:
        """Where orders are learned."""
        data = self.settings.fit_data or self.scenario.data
        try:
            return self.scenario.dataset("train", data=data)
        except ValueError as error:
            raise ValueError(
                f"learned orders (lbcs, average-oracle) are fitted on the train split of {data}: "
                f"{error}. Name other data with --fit-data, or an order's file as the policy"
            ) from error

    def _refuse_shared_subjects(self) -> None:
        """An order must not have seen the subjects that it is scored on."""
        train = {self._train.describe(i).subject for i in range(len(self._train))}
        shared = sorted(train & {info.subject for info in self.describe()})
        if shared:
            raise ValueError(
                f"learned orders (lbcs, average-oracle) would be scored on subjects that they are "
                f"fitted on: {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}. Choose "
                "another --split or --fit-data, or leave these policies out"
            )

    @cached_property
    def _fit_scans(self) -> SliceList:
        """Training scans that fit into the frame of the scans to be acquired."""
        train = self._train
        fitting = [
            i
            for i in range(len(train))
            if all(a <= b for a, b in zip(train.describe(i).shape, self.dataset.shape, strict=True))
        ]
        if len(fitting) < len(train):
            log.warning(
                "%d of %d train scans are larger than %s and left out of learned orders",
                len(train) - len(fitting),
                len(train),
                self.dataset.shape,
            )
        if not fitting:
            raise ValueError(
                f"no scan of the train split of {train.name} fits into {self.dataset.shape}; "
                "pass --matrix to bring all scans to one size"
            )
        chosen = evenly_spaced(fitting, self.settings.max_fit_slices)
        bar = progress(chosen, f"Loading {train.name}", unit="slice")
        return SliceList([train[i] for i in bar], name=train.name)


def _check_reference(reference: str, labels: Sequence[str]) -> None:
    """The default may be absent; another name is a mistake."""
    default = BenchmarkSettings().reference
    if reference not in (*labels, default):
        raise ValueError(
            f"the reference {reference!r} is not among the policies: {', '.join(labels)}"
        )
