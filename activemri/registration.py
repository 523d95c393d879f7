"""The Gymnasium ids and what each stands for.

Everything here is a name or a number: entry points are strings that are imported when an
environment is made, and the keyword arguments can be written to JSON with the environment's spec.
"""

from dataclasses import dataclass
from importlib import import_module

import gymnasium
from gymnasium.envs.registration import EnvSpec

ENTRY_POINT = "activemri.envs.env:ActiveMRIEnv"
VECTOR_ENTRY_POINT = "activemri.envs.vector_env:ActiveMRIVectorEnv"

Keyword = str | int | float | None


@dataclass(frozen=True)
class Environment:
    """A registered id.

    Attributes:
        name: the part of the id between ``ActiveMRI/`` and the version.
        summary: one line for tables.
        keywords: arguments of the environment; the user may override them. Where ``data`` is None
            the user must say where the scans lie: ``gym.make(id, data=PATH)``.
        version: raised by every change that alters results.
    """

    name: str
    summary: str
    keywords: dict[str, Keyword]
    version: int = 0

    @property
    def id(self) -> str:
        return f"ActiveMRI/{self.name}-v{self.version}"

    @property
    def arguments(self) -> dict[str, Keyword]:
        """What the environment is made with; data=None stands for data that the user must name."""
        needed: dict[str, Keyword] = {"data": None} if self.needs_data else {}
        return needed | self.keywords

    @property
    def needs_data(self) -> bool:
        return self.keywords["data"] is None


# A fourfold acceleration of the usual 320 to 370 columns.
_FASTMRI: dict[str, Keyword] = {"data": None, "n_center_lines": 30, "budget": 50}
_PHANTOM: dict[str, Keyword] = {
    "data": "phantom",
    "reconstructor": "cresnet",
    "n_center_lines": 8,
    "budget": 24,
}

ENVIRONMENTS: tuple[Environment, ...] = (
    Environment(
        "Phantom",
        "procedural phantoms, one coil, 128 x 128",
        _PHANTOM,
    ),
    Environment(
        "PhantomMulticoil",
        "procedural phantoms, 8 coils, 128 x 128",
        {"data": "phantom-multicoil", "n_center_lines": 8, "budget": 24},
    ),
    Environment("SinglecoilKnee", "fastMRI single-coil knee", _FASTMRI),
    Environment("MulticoilKnee", "fastMRI multi-coil knee", _FASTMRI),
    Environment("MulticoilBrain", "fastMRI multi-coil brain", _FASTMRI),
    Environment(
        "Pineda2020-2L",
        "extreme scenario of Pineda et al. 2020: fastMRI single-coil knee from 2 centre lines on",
        {"data": None, "n_center_lines": 2, "budget": 98},
    ),
    Environment(
        "Pineda2020-30L",
        "normal scenario of Pineda et al. 2020: fastMRI single-coil knee from 30 centre lines on",
        {"data": None, "n_center_lines": 30, "budget": 70},
    ),
    Environment(
        "Mixed",
        "phantoms in mixed orientations and fields of view, one coil, 128 x 128",
        {**_PHANTOM, "data": "phantom-mixed"},
    ),
    Environment(
        "FreeBudget",
        "phantoms; every line costs 0.0015 of SSIM, and the agent stops when it likes",
        {**_PHANTOM, "budget": 56, "stop_action": True, "step_cost": 0.0015},
    ),
    Environment(
        "Lesion",
        "phantoms with a lesion in a known box, which alone is scored",
        {
            **_PHANTOM,
            "data": "phantom-lesion",
            "reward": "delta_roi_ssim",
            "observation": "roi",
        },
    ),
    Environment(
        "EchoTrain",
        "phantoms, four neighbouring lines a shot, a shot every 3 seconds",
        {**_PHANTOM, "lines_per_action": 4, "tr": 3.0},
    ),
    Environment(
        "LowField",
        "phantoms in noise: a line may be measured 4 times, and its measurements are averaged",
        {**_PHANTOM, "budget": 48, "imperfection": "noise", "severity": 0.1, "repeats": 4},
    ),
    Environment(
        "Motion",
        "phantoms that move now and then; a line may be measured 3 times, and the last one counts",
        {**_PHANTOM, "budget": 32, "imperfection": "motion", "severity": 0.04, "repeats": 3},
    ),
    Environment(
        "Spikes",
        "phantoms and interference; a line may be measured 3 times, and the last one counts",
        {**_PHANTOM, "budget": 32, "imperfection": "spikes", "severity": 0.2, "repeats": 3},
    ),
    Environment("HDF5", "any folder of HDF5 scans", {"data": None, "n_center_lines": 8}),
)


def find_environment(id: str) -> EnvSpec:
    """The specification of an id: ours, or one that a user registered with our entry point.

    Its `kwargs` are what the environment is made with, its `max_episode_steps` a limit of time.

    Args:
        id: as for ``gymnasium.make``: "ActiveMRI/Phantom-v0", or "module:Name-v0" to import the
            module first that registers it.

    Raises:
        ValueError: nothing of that name is registered, or it is no environment of this package.
    """
    module, _, name = id.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(f"environment {id!r}: cannot import {module!r}: {error}") from error
    register_environments()
    spec = gymnasium.registry.get(name)
    if spec is not None and _is_ours(spec):
        return spec
    known = ", ".join(id for id, other in gymnasium.registry.items() if _is_ours(other))
    if spec is None:
        raise ValueError(f"unknown environment {id!r}; expected one of {known}")
    raise ValueError(
        f"environment {id!r} is made by {spec.entry_point}, not by {ENTRY_POINT}; "
        f"expected one of {known}"
    )


def _is_ours(spec: EnvSpec) -> bool:
    """Whether an environment is made by our class, named or given."""
    made_by = spec.entry_point
    if isinstance(made_by, type):
        made_by = f"{made_by.__module__}:{made_by.__qualname__}"
    return made_by == ENTRY_POINT


def register_environments() -> None:
    """Make the ids known to Gymnasium; ids that it knows already are left as they are."""
    for environment in ENVIRONMENTS:
        if environment.id not in gymnasium.registry:
            gymnasium.register(
                environment.id,
                entry_point=ENTRY_POINT,
                vector_entry_point=VECTOR_ENTRY_POINT,
                kwargs=environment.arguments,
            )
