"""What each component of a training is worth: train with all, and with each one off."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from activemri.metrics.losses import NLL_WEIGHT, names_in
from activemri.reconstruction.reconstructor import gives_uncertainty
from activemri.runs.folder import command
from activemri.settings import StudySettings, TrainJointSettings, TrainReconstructorSettings
from activemri.tables import format_table
from activemri.training.construction import new_reconstructor
from activemri.training.reconstructor import TrainingResult
from activemri.training.search_space import apply
from activemri.training.study_folder import claim, described, train_once, write_json
from activemri.training.world import rank

S = TypeVar("S", bound=TrainReconstructorSettings)
FULL = "full"


def _without_adversarial(settings: S) -> S:
    if not isinstance(settings, TrainJointSettings):
        raise ValueError("`train reconstructor` trains without it")
    if settings.schedule != "alternating":
        raise ValueError(f"--schedule {settings.schedule} trains without it")
    loss = _without_term(settings.loss, "adversarial")
    if loss == settings.loss and settings.adversarial_weight == 0:
        raise ValueError("it is off already")
    return replace(settings, loss=loss, adversarial_weight=0.0)


def _without_uncertainty(settings: S) -> S:
    if not gives_uncertainty(new_reconstructor(replace(settings, device="cpu")).eval()):
        raise ValueError(f"the network {settings.name!r} gives none")
    written_out = {"standard": f"l1+ssim+{NLL_WEIGHT}*nll"}.get(settings.loss, settings.loss)
    loss = _without_term(written_out, "nll")
    if loss == written_out:
        raise ValueError(f"there is no nll in the loss {settings.loss!r}")
    return replace(settings, loss=loss)


def _without_term(loss: str, name: str) -> str:
    """A sum of losses without one; "mse" if nothing else is in it."""
    if name not in names_in(loss):
        return loss
    terms = loss.replace(" ", "").split("+")
    return "+".join(term for term in terms if names_in(term) != (name,)) or "mse"


def _without_argument(settings: S, argument: str, value: object) -> S:
    arguments = new_reconstructor(settings).settings
    if argument not in arguments:
        raise ValueError(f"the network {settings.name!r} does not have it")
    if arguments[argument] == value:
        raise ValueError("it is off already")
    return apply(settings, {f"network.{argument}": str(value).lower()})


def _without_setting(settings: S, name: str, value: object) -> S:
    if getattr(settings, name) == value:
        raise ValueError("it is off already")
    return replace(settings, **{name: value})  # type: ignore[arg-type]


#: Components by name: the settings without it.
#:
#: Gaussian likelihood with one variance for all pixels is the mean square error, which therefore
#: takes the place of "nll". One block in place of a cascade has fewer weights.
COMPONENTS: Mapping[str, Callable[[TrainReconstructorSettings], TrainReconstructorSettings]] = {
    "adversarial": _without_adversarial,
    "mask-embedding": lambda s: _without_argument(s, "mask_features", 0),
    "data-consistency": lambda s: _without_argument(s, "data_consistency", False),
    "uncertainty": _without_uncertainty,
    "skips": lambda s: _without_argument(s, "skips", False),
    "cascade": lambda s: _without_argument(s, "blocks", 1),
    "augmentation": lambda s: _without_setting(s, "augment", ("none",)),
}


@dataclass(frozen=True)
class Ablation:
    """What the trainings have reached.

    Attributes:
        results: by name of the training, "full" first.
    """

    results: Mapping[str, TrainingResult]

    def text(self) -> str:
        """A table with the differences from the full training."""
        full = self.results[FULL].best_ssim
        lines = [
            (name, r.zero_filled_ssim, r.best_ssim, r.best_ssim - full, r.best_step)
            for name, r in self.results.items()
        ]
        header = ("training", "zero-filled", "best SSIM", "difference", "best step")
        return format_table(header, lines)


def ablate(settings: S, *, train: Callable[[S], TrainingResult]) -> Ablation:
    """Train into ``full``, ``no-skips``, ... below `settings.out`; write ``ablation.json``.

    All trainings have the same seed, scans and masks. Finished ones are kept, interrupted ones are
    continued.

    Args:
        settings: of the full training; `settings.study` says what to switch off.
        train: one training.

    Raises:
        ValueError: an unknown component, one that this training does not have; a folder that is
            taken.
        OSError: `settings.out` cannot be written.
    """
    trainings = variants(settings)
    study = {"ablate": list(trainings)}
    claim(
        settings.out,
        "ablation",
        described={**described(settings), "study": study},
        resume=settings.resume,
    )
    results: dict[str, TrainingResult] = {}
    for name, one in trainings.items():
        results[name] = train_once(one, train)
        _write(settings, trainings, results)
    return Ablation(results)


def variants(settings: S) -> dict[str, S]:
    """Settings by name of the training: "full", then with ever more components off.

    Raises:
        ValueError: as :func:`ablate`.
    """
    names = _components(settings.study.ablate or "")
    most = len(names) if settings.study.ablate_grid else 1
    chosen = [off for n in range(most + 1) for off in itertools.combinations(names, n)]
    alone = replace(settings, study=StudySettings())
    return {
        name: replace(_without(alone, off), out=settings.out / name)
        for off, name in ((off, f"no-{'+'.join(off)}" if off else FULL) for off in chosen)
    }


def _components(text: str) -> list[str]:
    names: list[str] = []
    for word in text.split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if name not in COMPONENTS:
            raise ValueError(
                f"--ablate: unknown component {name!r}; expected some of {', '.join(COMPONENTS)}"
            )
        if equals and value != "off":
            raise ValueError(f"--ablate: components can only be off; got {word.strip()}")
        if name in names:
            raise ValueError(f"--ablate: {name} is there twice")
        names.append(name)
    return names


def _without(settings: S, off: Sequence[str]) -> S:
    for name in off:
        try:
            settings = COMPONENTS[name](settings)  # type: ignore[assignment]
        except ValueError as error:
            raise ValueError(f"--ablate: cannot switch {name} off: {error}") from None
    return settings


def _write(
    settings: TrainReconstructorSettings,
    trainings: Mapping[str, TrainReconstructorSettings],
    results: Mapping[str, TrainingResult],
) -> None:
    if rank() > 0:
        return
    full = results[FULL].best_ssim
    write_json(
        settings.out / "ablation.json",
        {
            name: {
                "best_ssim": result.best_ssim,
                "difference": result.best_ssim - full,
                "best_step": result.best_step,
                "zero_filled_ssim": result.zero_filled_ssim,
                "command": command(trainings[name]),
            }
            for name, result in results.items()
        },
    )
