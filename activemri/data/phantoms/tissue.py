"""How bright tissues are in the contrasts that the phantoms know."""

import numpy as np

CONTRASTS = ("T1", "T2", "PD")

#: Relative signal, T1-, T2- and proton-density-weighted, at about 1.5 tesla.
_SIGNAL: dict[str, tuple[float, float, float]] = {
    "fat": (1.00, 0.62, 0.80),
    "marrow": (0.85, 0.50, 0.70),
    "bone": (0.06, 0.05, 0.08),
    "air": (0.00, 0.00, 0.00),
    "csf": (0.14, 1.00, 0.85),
    "grey": (0.48, 0.58, 0.80),
    "white": (0.68, 0.38, 0.66),
    "nucleus": (0.54, 0.46, 0.74),
    "muscle": (0.42, 0.26, 0.50),
    "tendon": (0.08, 0.06, 0.12),
    "cartilage": (0.52, 0.60, 0.85),
    "fluid": (0.22, 0.95, 0.90),
    "liver": (0.56, 0.34, 0.56),
    "spleen": (0.42, 0.56, 0.66),
    "kidney": (0.46, 0.68, 0.72),
    "medulla": (0.34, 0.82, 0.78),
    "blood": (0.16, 0.18, 0.22),
    "bowel": (0.40, 0.50, 0.60),
    "skin": (0.40, 0.36, 0.50),
    "lesion": (0.34, 0.86, 0.90),
}

_FATTY = ("fat", "marrow")


class Tissues:
    """Signal of each tissue for one subject and one contrast.

    Args:
        contrast: one of `CONTRASTS`.
        generator: subjects and protocols differ by some 8 % a tissue; every other T2 and PD scan
            suppresses fat, as is usual in joints and bellies.
    """

    def __init__(self, contrast: str, generator: np.random.Generator) -> None:
        column = CONTRASTS.index(contrast)
        saturated = contrast != "T1" and generator.random() < 0.5
        spread = np.exp(0.08 * generator.standard_normal(len(_SIGNAL)))
        self._signal = {
            name: float(row[column] * factor * (0.3 if saturated and name in _FATTY else 1.0))
            for (name, row), factor in zip(_SIGNAL.items(), spread, strict=True)
        }

    def __getitem__(self, name: str) -> float:
        return self._signal[name]

    def step(self, inner: str, outer: str) -> float:
        """What to add inside a contour so that `outer` becomes `inner`."""
        return self._signal[inner] - self._signal[outer]
