"""The heat map of policies and reconstructors."""

import numpy as np
import pytest

from activemri.benchmark.transfer import transfer_figure, transfer_table

SCORES = {("a", "x"): 0.8, ("b", "x"): 0.85, ("a", "y"): 0.6, ("b", "y"): 0.55}


def summary(metric: str = "ssim", *, higher_is_better: bool = True) -> list[dict[str, object]]:
    return [
        {
            "policy": policy,
            "reconstructor": reconstructor,
            "metric": metric,
            "auc": score,
            "final": score + 0.1,
            "higher_is_better": higher_is_better,
        }
        for (policy, reconstructor), score in SCORES.items()
    ]


def test_the_table_has_policies_in_rows_and_reconstructors_in_columns() -> None:
    scores, policies, reconstructors = transfer_table(summary(), metric="ssim")
    assert (policies, reconstructors) == (["a", "b"], ["x", "y"])
    np.testing.assert_allclose(scores, [[0.8, 0.6], [0.85, 0.55]])
    final = transfer_table(summary(), metric="ssim", quantity="final")[0]
    np.testing.assert_allclose(final, scores + 0.1)


def test_pairs_that_were_not_run_are_left_empty() -> None:
    scores, _, _ = transfer_table(summary()[:3], metric="ssim")
    assert np.isnan(scores[1, 1]) and np.isfinite(scores).sum() == 3
    assert ">0.550<" not in transfer_figure(summary()[:3], metric="ssim", reference="a")


def test_the_figure_tells_every_number_and_what_colours_compare_with() -> None:
    figure = transfer_figure(summary(), metric="ssim", reference="b")
    assert all(f"{score:.3f}" in figure for score in SCORES.values())
    assert "SSIM, area; colour: against b" in figure
    assert "colour: against a" in transfer_figure(summary(), metric="ssim", reference="lbcs")


def test_a_smaller_error_is_the_better_colour() -> None:
    usual = transfer_figure(summary("nmse", higher_is_better=False), metric="nmse", reference="a")
    other = transfer_figure(summary("nmse"), metric="nmse", reference="a")
    assert usual != other


def test_a_metric_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows of the metric 'psnr'"):
        transfer_figure(summary(), metric="psnr", reference="a")
