"""The Gymnasium ids and what each stands for, all of it in names and numbers that JSON can hold."""

from dataclasses import dataclass, fields, replace
from importlib import import_module

import gymnasium
from gymnasium.envs.registration import EnvSpec

from activemri.envs.protocol import ScanProtocol

ENTRY_POINT = "activemri.envs.env:ActiveMRIEnv"


@dataclass(frozen=True)
class Environment:
    """A registered id: a named scan protocol, whose fields the user may override.

    Where its ``data`` is None the user must say where the scans lie: ``gym.make(id, data=PATH)``.
    The version is raised by every change that alters results.
    """

    name: str
    summary: str
    protocol: ScanProtocol
    version: int = 0

    @property
    def id(self) -> str:
        return f"ActiveMRI/{self.name}-v{self.version}"


# A fourfold acceleration of the usual 320 to 370 columns.
_FASTMRI = ScanProtocol(data=None, n_center_lines=30, budget=50)
#: The published target, for comparisons with the scores of others.
_FASTMRI_RSS = replace(_FASTMRI, target="rss")
_PHANTOM = ScanProtocol(reconstructor="cresnet", n_center_lines=8, budget=24)

ENVIRONMENTS: tuple[Environment, ...] = (
    Environment("Phantom", "procedural phantoms, one coil, 128 x 128", _PHANTOM),
    Environment(
        "PhantomMulticoil",
        "procedural phantoms, 8 coils, 128 x 128",
        ScanProtocol(data="phantom-multicoil", n_center_lines=8, budget=24),
    ),
    Environment("SinglecoilKnee", "fastMRI single-coil knee", _FASTMRI),
    Environment("MulticoilKnee", "fastMRI multi-coil knee", _FASTMRI_RSS),
    Environment("MulticoilBrain", "fastMRI multi-coil brain", _FASTMRI_RSS),
    Environment(
        "Pineda2020-2L",
        "extreme scenario of Pineda et al. 2020: fastMRI single-coil knee from 2 centre lines on",
        ScanProtocol(data=None, n_center_lines=2, budget=98),
    ),
    Environment(
        "Pineda2020-30L",
        "normal scenario of Pineda et al. 2020: fastMRI single-coil knee from 30 centre lines on",
        ScanProtocol(data=None, n_center_lines=30, budget=70),
    ),
    Environment(
        "Mixed",
        "phantoms in mixed orientations and fields of view, one coil, 128 x 128",
        replace(_PHANTOM, data="phantom-mixed"),
    ),
    Environment(
        "FreeBudget",
        "phantoms; every line costs 0.0015 of SSIM, and the agent stops when it likes",
        replace(_PHANTOM, budget=56, stop_action=True, step_cost=0.0015),
    ),
    Environment(
        "Lesion",
        "phantoms with a lesion in a known box, which alone is scored",
        replace(_PHANTOM, data="phantom-lesion", reward="delta_roi_ssim", observation="roi"),
    ),
    Environment(
        "EchoTrain",
        "phantoms, four neighbouring lines a shot, a shot every 3 seconds",
        replace(_PHANTOM, lines_per_action=4, tr=3.0),
    ),
    Environment(
        "LowField",
        "phantoms in noise: a line may be measured 4 times, and its measurements are averaged",
        replace(_PHANTOM, budget=48, scanner="noisy"),
    ),
    Environment(
        "Motion",
        "phantoms that move now and then; a line may be measured 3 times, and the last one counts",
        replace(_PHANTOM, budget=32, scanner="moving"),
    ),
    Environment(
        "Spikes",
        "phantoms and interference; a line may be measured 3 times, and the last one counts",
        replace(_PHANTOM, budget=32, scanner="spiking"),
    ),
    Environment(
        "Radial",
        "phantoms, golden-angle spokes from 8 on, 64 x 64",
        ScanProtocol(
            matrix_size=64, geometry="radial", reconstructor="cg-sense", n_center_lines=8, budget=24
        ),
    ),
    Environment(
        "Volume",
        "phantoms seen along the readout of a 3-D scan, tiles of 4 x 4 points, 64 x 64",
        ScanProtocol(matrix_size=64, geometry="tiles", tile=4, n_center_lines=64, budget=448),
    ),
    Environment(
        "HDF5",
        "any folder of scans, a quarter of the lines",
        ScanProtocol(data=None, n_center_lines=8, budget=0.25),
    ),
)


def find_protocol(id: str) -> ScanProtocol:
    """The scan protocol of an id, found as by :func:`find_spec`.

    ::

        protocol = replace(find_protocol("ActiveMRI/Motion-v0"), reconstructor="zero-filled")
    """
    known = [field.name for field in fields(ScanProtocol)]
    given = find_spec(id).kwargs
    return ScanProtocol(**{name: value for name, value in given.items() if name in known})


def find_spec(id: str) -> EnvSpec:
    """The specification of an id: ours, or one that a user registered with our entry point.

    An id is that of ``gymnasium.make``: "ActiveMRI/Phantom-v0", or "module:Name-v0" to import the
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
    problem = f"unknown environment {id!r}"
    if spec is not None:
        problem = f"environment {id!r} is made by {spec.entry_point}, not by {ENTRY_POINT}"
    known = ", ".join(id for id, other in gymnasium.registry.items() if _is_ours(other))
    raise ValueError(f"{problem}; expected one of {known}")


def _is_ours(spec: EnvSpec) -> bool:
    """An environment is made by our class, named or given."""
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
                vector_entry_point="activemri.envs.vector_env:ActiveMRIVectorEnv",
                kwargs=environment.protocol.changes,
            )
