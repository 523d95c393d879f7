"""The Gymnasium ids and what each stands for.

Everything here is a name or a number: entry points are strings that are imported when an
environment is made, and the keyword arguments can be written to JSON with the environment's spec.
"""

from dataclasses import dataclass

import gymnasium

ENTRY_POINT = "activemri.envs.env:ActiveMRIEnv"
VECTOR_ENTRY_POINT = "activemri.envs.vector_env:ActiveMRIVectorEnv"


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
    keywords: dict[str, str | int | None]
    version: int = 0

    @property
    def id(self) -> str:
        return f"ActiveMRI/{self.name}-v{self.version}"

    @property
    def arguments(self) -> dict[str, str | int | None]:
        """What the environment is made with; data=None stands for data that the user must name."""
        needed: dict[str, str | int | None] = {"data": None} if self.needs_data else {}
        return needed | self.keywords

    @property
    def needs_data(self) -> bool:
        return self.keywords["data"] is None


# A fourfold acceleration of the usual 320 to 370 columns.
_FASTMRI: dict[str, str | int | None] = {"data": None, "n_center_lines": 30, "budget": 50}

ENVIRONMENTS: tuple[Environment, ...] = (
    Environment(
        "Phantom",
        "procedural phantoms, one coil, 128 x 128",
        {"data": "phantom", "reconstructor": "cresnet", "n_center_lines": 8, "budget": 24},
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
    Environment("HDF5", "any folder of HDF5 scans", {"data": None, "n_center_lines": 8}),
)


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
