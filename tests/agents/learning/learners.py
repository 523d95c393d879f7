"""A workplace of small scans, and small settings of any algorithm."""

from dataclasses import fields
from functools import cache

from activemri.agents.learning.learner import Learner, Workplace
from activemri.agents.learning.registry import make_learner, parse_settings
from activemri.agents.policy import Policy
from activemri.data.slices import Slice, SliceList
from activemri.envs.protocol import EnvOptions
from tests.training.conftest import discs

N_CENTER_LINES, BUDGET = 4, 4

# Settings by the names that algorithms give them; those that an algorithm lacks are left out.
_SMALL = {
    "n_envs": "4",
    "n_steps": "4",
    "batch": "8",
    "n_epochs": "2",
    "burn_in": "8",
    "memory": "64",
    "target_every": "8",
    "n_quantiles": "3",
    "channels": "4",
    "blocks": "1",
    "states": "12",
    "rounds": "2",
    "n_tried": "3",
}


@cache
def train_scans() -> SliceList:
    """Four scans of two subjects."""
    return discs(["a", "b"])


@cache
def validation_scans() -> SliceList:
    """Two scans of another subject."""
    return discs(["cc"])


def listed(scans: SliceList) -> list[Slice]:
    """All scans."""
    return [scans[i] for i in range(len(scans))]


def small_words(algo: str) -> tuple[str, ...]:
    """Arguments ``key=value`` that make an algorithm quick."""
    known = [field.name for field in fields(parse_settings(algo, ()))]
    return tuple(f"{key}={value}" for key, value in _SMALL.items() if key in known)


def workplace(
    *,
    max_steps: int = 16,
    scans: SliceList | None = None,
    warm_start: Policy | None = None,
    **options: object,
) -> Workplace:
    """Zero-filled scans that start with a few lines."""
    scans = train_scans() if scans is None else scans
    task = EnvOptions.of(
        {
            "data": scans,
            "n_center_lines": N_CENTER_LINES,
            "budget": BUDGET,
            "metrics": ("ssim",),
            **options,
        }
    )
    return Workplace(
        task=task,
        scans=scans,
        acquisition=task.scan(scans),
        metric="ssim",
        max_steps=max_steps,
        seed=3,
        warm_start=warm_start,
        name="small",
    )


def small_learner(algo: str, place: Workplace, *words: str) -> Learner:
    """An algorithm at work; further arguments override the small ones."""
    given = [word.partition("=")[0] for word in words]
    small = [word for word in small_words(algo) if word.partition("=")[0] not in given]
    return make_learner(algo, place, parse_settings(algo, (*small, *words)))
