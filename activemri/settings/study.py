"""Settings that make several trainings of one: cross-validation and ablation."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from activemri.settings.fields import Flag, Label, OptionalInt, require


@dataclass(frozen=True)
class StudySettings:
    """Train several times: once for every fold, or once without each component."""

    folds: OptionalInt = None
    """Cross-validate: pool the subjects of train and val, and train this many times, each time
    with other subjects for validation. Never touches the test split."""
    leave_one_subject_out: Flag = False
    """Cross-validate with as many folds as subjects."""
    fold: OptionalInt = None
    """Train this fold only (the first one is 0), e.g. one on each machine."""
    stratify: Label | None = None
    """Balance the slices of every contrast, field strength or scanner over the folds."""
    ablate: Annotated[str | None, arg(metavar="COMPONENT=off,...")] = None
    """Train in full, and once with each of these off: adversarial, mask-embedding,
    data-consistency, uncertainty, skips, cascade, augmentation."""
    ablate_grid: Flag = False
    """Train with every combination of the components of --ablate off."""

    def __post_init__(self) -> None:
        require(
            self.folds is None or self.folds >= 2,
            f"--folds: expected at least 2; got {self.folds}",
        )
        require(
            self.fold is None or self.fold >= 0,
            f"--fold: expected a number of at least 0; got {self.fold}",
        )
        require(
            self.folds is None or not self.leave_one_subject_out,
            "--folds and --leave-one-subject-out: choose one",
        )
        require(
            self.cross_validates or self.fold is None,
            "--fold is one of --folds or --leave-one-subject-out; add one of them",
        )
        require(
            self.folds is not None or self.stratify is None,
            "--stratify balances --folds; add them",
        )
        require(
            self.ablate is not None or not self.ablate_grid,
            "--ablate-grid combines the components of --ablate; add it",
        )
        require(
            self.ablate is None or not self.cross_validates,
            "--ablate and cross-validation: choose one; start one ablation for every fold instead",
        )

    @property
    def cross_validates(self) -> bool:
        """Whether there are folds."""
        return self.folds is not None or self.leave_one_subject_out


ONE_TRAINING = StudySettings()
