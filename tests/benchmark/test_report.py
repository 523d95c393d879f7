"""The figures and the page: what they say, that they hold together, that they leak nothing."""

import html.parser
import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from activemri.benchmark import action_maps, curves, report, statistics
from activemri.benchmark.curves import metric_name
from activemri.benchmark.report import Episode, ReportFigure, formatted, write_report
from tests.benchmark.tables import with_traits

BOUNDS = ("oracle", "exchange-oracle")
POLICIES = ("random", "lbcs", *BOUNDS)
BUDGET = 5
SVG = "{http://www.w3.org/2000/svg}"


def invented(policies: tuple[str, ...] = POLICIES, *, n_subjects: int = 4) -> pd.DataFrame:
    """Scores that rise, faster for later policies, and differ between subjects."""
    rng = np.random.default_rng(0)
    rows = []
    for (speed, policy), reconstructor, subject in itertools.product(
        enumerate(policies), ("zero-filled", "unet"), range(n_subjects)
    ):
        for step in range(BUDGET + 1):
            ssim = 0.5 + 0.01 * subject + 0.02 * (speed + 1) * step + 0.002 * rng.normal()
            for metric, value in (("ssim", ssim), ("psnr", 40 * ssim), ("mse", 1 - ssim)):
                rows.append(
                    {
                        "policy": policy,
                        "reconstructor": reconstructor,
                        "volume": f"v{subject}",
                        "slice": 3,
                        "subject": f"s{subject}",
                        "contrast": ("T1", "T2")[subject % 2],
                        "step": step,
                        "n_acquired": 8 + step,
                        "metric": metric,
                        "value": value,
                        "seed": 0,
                    }
                )
    return with_traits(pd.DataFrame(rows))


def taken_actions(policies: tuple[str, ...] = POLICIES) -> pd.DataFrame:
    rows = [
        {"policy": policy, "volume": volume, "slice": 0, "step": step, "action": step + volume}
        for policy, volume, step in itertools.product(policies, range(2), range(1, 4))
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return invented()


@pytest.fixture(scope="module")
def figures(table: pd.DataFrame) -> dict[str, str]:
    palette = curves.colours(POLICIES, bounds=BOUNDS)
    which: dict[str, Any] = {"metric": "ssim", "reconstructor": "unet", "palette": palette}
    gains = statistics.differences(table, "lbcs")
    return {
        "score": curves.score_figure(statistics.score_curves(table), bounds=BOUNDS, **which),
        "difference": curves.difference_figure(gains, reference="lbcs", **which),
        "acquisition": action_maps.action_map_figure(taken_actions(), n_actions=9),
    }


def episodes(n_frames: int = 3, policies: tuple[str, ...] = POLICIES[:2]) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            policy=policy,
            frames=[rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(n_frames)],
            scores=[0.1 * step for step in range(n_frames)],
            score_name="SSIM",
        )
        for policy in policies
    ]


def page(path: Path, table: pd.DataFrame, **changes: Any) -> str:
    content: dict[str, Any] = {
        "title": "Invented",
        "settings": {"budget": BUDGET, "seed": 0},
        "summary": statistics.summarise(table),
        "comparisons": statistics.compare(table, "lbcs"),
        "by_contrast": statistics.summarise(table, by=("contrast",)),
        "reach": statistics.lines_to_reach(table, {"ssim": 0.7}),
        "episodes": episodes(),
        "gif": b"GIF89a",
        "command": "activemri benchmark --seed 0",
    }
    write_report(path / "report.html", **(content | changes))
    return (path / "report.html").read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """Checks that tags close in order; collects headings' ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id" and tag == "h2"]
        self.links += [v or "" for name, v in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in {"meta", "input", "img", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for name, v in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words += data


def test_page_is_well_formed_and_loads_nothing(
    tmp_path: Path, table: pd.DataFrame, figures: dict[str, str]
) -> None:
    shown = [ReportFigure(name, svg, folded=name == "score") for name, svg in figures.items()]
    outline = Outline(page(tmp_path, table, figures=shown))
    assert outline.open == []
    assert outline.links
    assert all(link.startswith(("data:", "#")) for link in outline.links)
    sections = "results curves episode animation tests reach contrasts words settings"
    assert outline.ids == sections.split()
    assert "activemri benchmark --seed 0" in outline.words
    assert "not reached" in outline.words


def test_empty_parts_leave_their_sections_out(tmp_path: Path, table: pd.DataFrame) -> None:
    bare = {"comparisons": (), "by_contrast": (), "reach": (), "episodes": (), "gif": None}
    outline = Outline(page(tmp_path, table, **bare))
    assert outline.ids == ["results", "words", "settings"]


def test_everything_given_is_escaped(tmp_path: Path) -> None:
    nasty = "</script><script>alert('$x$')</script>"
    table = invented((nasty, "lbcs"))
    palette = curves.colours([nasty, "lbcs"])
    svg = curves.score_figure(
        statistics.score_curves(table), metric="ssim", reconstructor="unet", palette=palette
    )
    text = page(
        tmp_path,
        table,
        title=nasty,
        settings={nasty: nasty},
        command=nasty,
        episode_title=nasty,
        episodes=episodes(policies=(nasty, "lbcs")),
        figures=[ReportFigure(nasty, svg, nasty)],
    )
    assert nasty not in text and "<script>alert" not in text
    assert text.count("</script>") == 1
    assert nasty in Outline(text).words


def test_best_competitor_is_marked_and_no_bound(table: pd.DataFrame) -> None:
    shown: Any = report.result_table(statistics.summarise(table), metric="ssim")
    best = {row["policy"]: [cell["best"] for cell in row["cells"]] for row in shown["rows"]}
    assert best == {policy: [policy == "lbcs"] * 4 for policy in POLICIES}
    assert [row["policy"] for row in shown["rows"] if row["bound"]] == list(POLICIES[2:])


def test_the_smallest_error_is_best(table: pd.DataFrame) -> None:
    shown: Any = report.result_table(statistics.summarise(table), metric="mse")
    rows = {row["policy"]: row["cells"] for row in shown["rows"]}
    assert rows["lbcs"][0]["best"] and not rows["random"][0]["best"]
    assert float(rows["lbcs"][0]["value"]) < float(rows["random"][0]["value"])


def test_a_policy_that_was_not_run_with_a_reconstructor_gets_a_dash(table: pd.DataFrame) -> None:
    partly = table[(table["policy"] != "random") | (table["reconstructor"] == "unet")]
    shown: Any = report.result_table(statistics.summarise(partly), metric="ssim")
    cells = next(row["cells"] for row in shown["rows"] if row["policy"] == "random")
    assert sorted(cell["value"] == "–" for cell in cells) == [False, False, True, True]


def test_four_subjects_are_said_to_be_too_few(tmp_path: Path, table: pd.DataFrame) -> None:
    words = Outline(page(tmp_path, table)).words
    assert "4 subjects the intervals are too narrow" in words
    assert "no p below 0.375" in words
    shown: Any = report.comparison_table(statistics.compare(table, "lbcs"), metric="ssim")
    assert all(cell["verdict"] == "" for row in shown["rows"] for cell in row["cells"])


def test_eight_subjects_that_agree_give_a_verdict() -> None:
    table = invented(n_subjects=8)
    for metric in ("ssim", "mse"):
        shown: Any = report.comparison_table(statistics.compare(table, "lbcs"), metric=metric)
        verdicts = {row["policy"]: row["cells"][0]["verdict"] for row in shown["rows"]}
        # Bounds are no competitors: nothing is said of them.
        assert verdicts == {"random": "worse", "oracle": "", "exchange-oracle": ""}


def test_one_subject_is_reported_without_intervals(tmp_path: Path) -> None:
    words = Outline(page(tmp_path, invented(n_subjects=1))).words
    assert "With one subject there are no intervals" in words
    assert "no interval" in words and not re.search(r"\b(nan|None)\b", words)


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        (0.87654, "ssim", "0.8765"),
        (31.4159, "psnr_volume", "31.42"),
        (0.0201, "nmse", "0.0201"),
        (0.02, "nmse", "0.0200"),
        (123.4, "mse", "123"),
        (None, "ssim", "–"),
    ],
)
def test_numbers_have_the_digits_of_their_metric(
    value: float | None, metric: str, expected: str
) -> None:
    assert report.formatted(value, metric) == expected


def test_differences_carry_their_sign() -> None:
    assert report.formatted(0.01, "ssim", signed=True) == "+0.0100"
    assert report.formatted(-0.01, "ssim", signed=True) == "\u22120.0100"


def test_many_large_frames_are_made_to_fit(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = len(page(tmp_path, table, episodes=episodes(40)))
    monkeypatch.setattr(report, "FRAME_BYTES", 20_000)
    assert len(page(tmp_path, table, episodes=episodes(40))) < 0.6 * plenty


def test_an_empty_summary_is_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="the summary is empty"):
        page(tmp_path, table, summary=[])


def test_figures_are_svg_without_outside_references(figures: dict[str, str]) -> None:
    for svg in figures.values():
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        references = [
            value
            for element in root.iter()
            for name, value in element.attrib.items()
            if name.endswith("href")
        ]
        assert all(reference.startswith(("#", "data:")) for reference in references)
        assert "currentColor" in svg and curves.INK not in svg


def test_figures_name_their_policies_and_mark_bounds(figures: dict[str, str]) -> None:
    texts = [element.text for element in ET.fromstring(figures["score"]).iter(f"{SVG}text")]
    assert {"random", "lbcs", "oracle (bound)", "acquired lines", "SSIM"} <= set(texts)
    assert figures["score"].count("stroke-dasharray") == 2  # the two bounds
    texts = [element.text for element in ET.fromstring(figures["difference"]).iter(f"{SVG}text")]
    assert {"random", "oracle"} <= set(texts) and "lbcs" not in texts


def test_the_same_results_give_the_same_figure(figures: dict[str, str]) -> None:
    again = action_maps.action_map_figure(taken_actions(), n_actions=9)
    assert again == figures["acquisition"]


def test_figures_of_one_page_share_no_clip_paths(table: pd.DataFrame) -> None:
    rows = statistics.score_curves(table)
    paths = [
        set(
            re.findall(
                r'clipPath id="([^"]+)"',
                curves.score_figure(
                    rows, metric="ssim", reconstructor=name, palette=curves.colours(POLICIES)
                ),
            )
        )
        for name in ("unet", "zero-filled")
    ]
    assert paths[0] and paths[1] and not paths[0] & paths[1]


def test_policies_have_colours_of_their_own() -> None:
    names = [f"policy {n}" for n in range(11)] + ["oracle", "exchange-oracle"]
    assert len(set(curves.colours(names, bounds=BOUNDS).values())) == 13
    without = curves.colours([name for name in names if name != "oracle"], bounds=BOUNDS)
    assert without["policy 10"] == curves.colours(names, bounds=BOUNDS)["policy 10"]


def test_many_curves_can_be_told_apart() -> None:
    def drawn(n: int) -> str:
        names = tuple(f"policy {i}" for i in range(n))
        rows = statistics.score_curves(invented(names))
        palette = curves.colours(names)
        return curves.score_figure(rows, metric="ssim", reconstructor="unet", palette=palette)

    few, many = drawn(curves.MOST_BANDS), drawn(13)
    assert few.count("FillBetweenPolyCollection") == curves.MOST_BANDS
    assert "FillBetweenPolyCollection" not in many, "bands would hide the curves"
    assert "stroke-dasharray" not in few
    assert many.count("stroke-dasharray") == 2, "eleven colours: the last two are used again"


def test_taken_share_counts_each_line_when_it_was_taken() -> None:
    share = action_maps.taken_share(taken_actions(("lbcs",)), n_actions=6)
    # Volume 0 takes 1, 2, 3 and volume 1 takes 2, 3, 4.
    np.testing.assert_allclose(
        share, [[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5, 0]]
    )


def test_names_at_the_ends_keep_apart_in_order() -> None:
    moved = curves._apart([0.1, 0.5, 0.5, 0.51, 0.9], gap=0.1)
    assert moved[0] == 0.1 and moved[-1] == 0.9
    assert (np.diff(moved) >= 0.1 - 1e-12).all()
    assert np.mean(moved[1:4]) == pytest.approx(np.mean([0.5, 0.5, 0.51]))


def test_script_of_the_page_is_valid_javascript(tmp_path: Path, table: pd.DataFrame) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = page(tmp_path, table).split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.js").write_text(script)
    assert subprocess.run([node, "--check", str(tmp_path / "page.js")], check=False).returncode == 0


@pytest.mark.parametrize(
    ("metric", "words", "number"),
    [
        ("ssim", "SSIM", "0.1235"),
        ("psnr_volume", "PSNR (volume range)", "0.12"),
        ("roi_ssim", "SSIM (region of interest)", "0.1235"),
        ("roi_nmse", "NMSE (region of interest)", "0.123"),
    ],
)
def test_metrics_have_names_and_digits_for_people(metric: str, words: str, number: str) -> None:
    assert metric_name(metric) == words
    assert formatted(0.12345, metric) == number
