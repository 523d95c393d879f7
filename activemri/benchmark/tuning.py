"""Settings of reconstructors for the masks of one policy and budget, chosen on validation scans.

A weight of regularisation that suits one kind of mask does not suit another. Methods that are not
trained learn from scans in no other way, and are weak rivals with one weight for everything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from activemri.agents.policy import Policy
from activemri.agents.rollout import episode_generator, play, rows_of_a_kind, start_scans
from activemri.benchmark.statistics import higher_is_better
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.tables import Table

OnShare = Callable[[float], object]  # takes the share of the work that was done


@dataclass(frozen=True)
class Tuning:
    """Settings of a reconstructor that suit the final masks of a policy best.

    Attributes:
        policy, reconstructor: labels.
        metric: that decides.
        n_scans: validation scans that it was averaged over.
        settings: the best.
        trials: (settings, mean score) of all that were tried; the default ones come first.
    """

    policy: str
    reconstructor: str
    metric: str
    n_scans: int
    settings: dict[str, Any]
    trials: list[tuple[dict[str, Any], float]]

    def apply(self, scan: Scan) -> Scan:
        """The scan with these settings."""
        return _with_settings(scan, self.settings)

    @property
    def score(self) -> float:
        """Mean validation score of the best settings."""
        return next(score for settings, score in self.trials if settings == self.settings)

    @property
    def words(self) -> str:
        """The settings that the grid varies, for tables."""
        (default, _), *_ = self.trials
        varied = [n for n in default if any(s[n] != default[n] for s, _ in self.trials)]
        return ", ".join(f"{name} {self.settings[name]}" for name in varied)


def n_trials(reconstructor: Reconstructor) -> int:
    """Settings that tuning tries at most; 0 for a reconstructor without a grid."""
    grid = type(reconstructor).grid
    return sum(map(len, grid.values())) + 1 if grid else 0


def tune(
    scan: Scan,
    policy: Policy,
    slices: Sequence[Slice],
    *,
    metric: str,
    labels: tuple[str, str],
    seed: int = 0,
    tell: OnShare = lambda share: None,
) -> Tuning:
    """Acquire scans to the end with the default settings, and score others on the same samples.

    The settings of the grid are varied one after the other, each with the best of those before.

    Args:
        scan: with a reconstructor that has a grid.
        policy: whose masks are reconstructed; of a fixed order they need no reconstruction.
        slices: validation scans.
        metric: that decides.
        labels: of the policy and the reconstructor.
        seed: of the episodes.
        tell: takes shares of the work that were done.
    """
    playing = replace(scan, reconstructor=ZeroFilled()) if policy.traits.is_order else scan
    share = 1 / (2 * len(slices))  # half of it for playing
    ends: list[State] = []
    for rows in rows_of_a_kind(slices):
        batch = [slices[row] for row in rows]
        start = start_scans(playing, batch, seed=seed)
        generators = [episode_generator(seed, one, policy.name) for one in batch]
        left = 1.0
        for _, state in play(playing, policy, start, generators):
            now = float(state.view.budget.sum() / state.view.start_budget.sum())
            tell((left - now) * share * len(batch))
            left = now
        ends.append(state)
        tell(left * share * len(batch))

    reconstructor, trials = scan.reconstructor, list[tuple[dict[str, Any], float]]()
    share = 1 / (2 * n_trials(reconstructor))

    def score(settings: dict[str, Any]) -> float:
        """Mean score of the final masks, higher for better settings."""
        known = [value for tried, value in trials if tried == settings]
        if not known:
            trial = _with_settings(scan, settings)
            scores = [
                trial.preview_masks(state, state.view.mask[:, None], (metric,))[metric]
                for state in ends
            ]
            known = [float(torch.cat(scores).mean())]
            trials.append((settings, known[0]))
            tell(share)
        return known[0] if higher_is_better(metric) else -known[0]

    best = dict(reconstructor.settings)
    score(best)
    for name, values in type(reconstructor).grid.items():
        # of equals the first: the settings so far
        best = max((best, *(best | {name: value} for value in values)), key=score)
    tell(share * (n_trials(reconstructor) - len(trials)))
    return Tuning(*labels, metric, len(slices), best, trials)


def tuning_table(tunings: Sequence[Tuning]) -> Table:
    """Chosen settings, and the validation scores of these and of the default ones."""
    lines = [
        (one.policy, one.reconstructor, one.words, one.score, one.trials[0][1]) for one in tunings
    ]
    first = tunings[0]
    return Table(
        ["policy", "reconstructor", "settings", f"val {first.metric}", "with the default"],
        lines,
        title="Settings tuned on validation scans",
        notes=[
            f"Chosen by the final {first.metric} of {first.n_scans} val scans, for each policy and "
            "this budget; orders were learned, and policies played there, with the default ones."
        ],
    )


def _with_settings(scan: Scan, settings: dict[str, Any]) -> Scan:
    made = type(scan.reconstructor)(**settings).to(scan.device).eval()
    return replace(scan, reconstructor=made)
