"""What `activemri benchmark --stop ...` says, in words like `target=ssim:0.90 alpha=0.1`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_PREDICTORS = ("regression", "uncertainty", "evaluator")
_UNITS = ("subject", "volume", "slice")
_CROSSFIT = "crossfit"


@dataclass(frozen=True)
class StopSettings:
    """How stopping rules are fitted, calibrated and judged.

    Attributes:
        metric: name of the true score that counts.
        target: its value that a scan shall have when it stops.
        alpha: share of the slices that may stop below the target.
        predictor: "regression" on all that is known, "uncertainty" or "evaluator".
        unit: what is exchangeable: "subject", "volume" or "slice".
        calibration: split that the threshold is calibrated on, or "crossfit": the predictor is
            fitted and the threshold calibrated on train and val together, in folds by subject.
        fit: split that the predictor is fitted on; not used with "crossfit".
        max_slices: of each split, spread evenly; None takes all.
        calibration_subjects: subjects of the calibration split, for phantoms, where there can be
            any number; None takes the usual ones.
    """

    metric: str
    target: float
    alpha: float
    predictor: str = "regression"
    unit: str = "subject"
    calibration: str = "val"
    fit: str = "train"
    max_slices: int | None = 256
    calibration_subjects: int | None = None

    @property
    def is_crossfit(self) -> bool:
        return self.calibration == _CROSSFIT

    @property
    def extensible(self) -> str:
        """The split that `calibration_subjects` is about."""
        return "val" if self.is_crossfit else self.calibration

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are played besides the one that is scored."""
        return ("train", "val") if self.is_crossfit else (self.fit, self.calibration)


def parse_stop(words: Sequence[str]) -> StopSettings | None:
    """The settings that the words spell, or None where there are no words.

    Raises:
        ValueError: for an unknown key, a missing one, or a value that makes no sense.
    """
    if not words:
        return None
    given = dict(_pair(word) for word in words)
    if len(given) < len(words):
        raise ValueError(f"--stop: expected each key once; got {' '.join(words)}")
    if unknown := [key for key in given if key not in _KEYS]:
        raise ValueError(
            f"--stop: unknown key {', '.join(unknown)}; expected some of {', '.join(_KEYS)}"
        )
    if missing := [key for key in ("target", "alpha") if key not in given]:
        raise ValueError(
            f"--stop: {' and '.join(missing)} missing; expected e.g. target=ssim:0.90 alpha=0.1"
        )
    values: dict[str, Any] = {
        key.replace("-", "_"): _KEYS[key](f"--stop {key}", text) for key, text in given.items()
    }
    metric, target = values.pop("target")
    settings = StopSettings(metric=metric, target=target, **values)
    if settings.is_crossfit and "fit" in given:
        raise ValueError(
            f"--stop: calibration={_CROSSFIT} fits to train and val; leave fit={settings.fit} out"
        )
    if not settings.is_crossfit and settings.fit == settings.calibration:
        raise ValueError(
            f"--stop: the predictor must not be fitted to the split that it is calibrated on; got "
            f"fit={settings.fit} calibration={settings.calibration}. "
            f"calibration={_CROSSFIT} uses train and val for both, in folds"
        )
    return settings


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals and value):
        raise ValueError(f"--stop: expected KEY=VALUE, e.g. alpha=0.1; got {word!r}")
    return key, value


def _target(name: str, text: str) -> tuple[str, float]:
    from activemri.metrics import find_metric  # heavy, and needed only for this

    metric, _, value = text.partition(":")
    try:
        find_metric(metric)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    number = _number(name, value, f"METRIC:VALUE, e.g. ssim:0.90; got {text!r}")
    if number <= 0 or (metric.startswith("ssim") and number >= 1):
        allowed = "between 0 and 1" if metric.startswith("ssim") else "above 0"
        raise ValueError(f"{name}: expected a value {allowed} for {metric}; got {value}")
    return metric, number


def _share(name: str, text: str) -> float:
    number = _number(name, text, f"a number between 0 and 1; got {text!r}")
    if not 0 < number < 1:
        raise ValueError(f"{name}: expected a number between 0 and 1; got {text}")
    return number


def _count(name: str, text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{name}: expected a whole number above 0, or None; got {text!r}")
    return int(text)


def _number(name: str, text: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name}: expected {expected}") from None
    if number in (float("inf"), float("-inf")) or number != number:
        raise ValueError(f"{name}: expected {expected}")
    return number


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def check(name: str, text: str) -> str:
        if text not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {text!r}")
        return text

    return check


def _word(name: str, text: str) -> str:
    return text


_KEYS: dict[str, Callable[[str, str], Any]] = {
    "target": _target,
    "alpha": _share,
    "predictor": _one_of(*_PREDICTORS),
    "unit": _one_of(*_UNITS),
    "calibration": _word,
    "fit": _word,
    "max-slices": _count,
    "calibration-subjects": _count,
}
