"""Figures, tables and the page: their content, that they hold together, that they load nothing."""

import html.parser
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from activemri.benchmark import figures, report, statistics
from activemri.benchmark.figures import ReportFigure
from activemri.benchmark.report import Episode, Report, Section
from activemri.tables import Cell, Table
from tests.benchmark.tables import long_table

BOUNDS = ("oracle", "exchange-oracle")
POLICIES = ("random", "lbcs", *BOUNDS)
BUDGET = 5
SVG = "{http://www.w3.org/2000/svg}"


def invented(policies: tuple[str, ...] = POLICIES, *, n_subjects: int = 4) -> pd.DataFrame:
    """Scores that rise, faster for later policies, and differ between subjects."""
    noise = np.random.default_rng(0)

    def ssim(policy: str, subject: int, index: int, step: int, seed: int) -> float:
        speed = 0.02 * (policies.index(policy) + 1)
        return float(0.5 + 0.01 * subject + speed * step + 0.002 * noise.normal())

    sizes: dict[str, Any] = {"policies": policies, "n_subjects": n_subjects, "n_steps": BUDGET}
    parts = [long_table(ssim, reconstructor=name, **sizes) for name in ("zero-filled", "unet")]
    own = pd.concat(parts, ignore_index=True)
    errors = own.assign(metric="mse", value=1 - own["value"])
    return pd.concat([own, errors], ignore_index=True)


def lines_of(table: Any) -> dict[tuple[Any, ...], list[Any]]:
    """Cells by policy and reconstructor."""
    return {(line[0].value, line[1]): list(line) for line in table.lines}


def taken_actions(policies: tuple[str, ...] = POLICIES) -> pd.DataFrame:
    table = long_table(lambda *_: 0.5, policies=policies, n_subjects=2, n_steps=3)
    acting = table[table["step"] > 0]
    return acting.assign(action=acting["step"] + acting["subject"].str[1:].astype(int))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return invented()


@pytest.fixture(scope="module")
def shown(table: pd.DataFrame) -> dict[str, ReportFigure]:
    palette = figures.colours(POLICIES, bounds=BOUNDS)
    which: dict[str, Any] = {"metric": "ssim", "reconstructor": "unet", "palette": palette}
    gains = statistics.differences(table, "lbcs")
    return {
        "score": figures.score_figure(statistics.score_curves(table), bounds=BOUNDS, **which),
        "difference": figures.difference_figure(gains, reference="lbcs", **which),
        "actions": figures.action_map_figure(
            taken_actions(),
            reconstructor="unet",
            initial=np.arange(9) == 8,
            notes={"lbcs": "3.0 of 3 shared"},
        ),
        "transfer": figures.transfer_figure(
            statistics.summarise(table), metric="ssim", reference="lbcs"
        ),
    }


@pytest.fixture(scope="module")
def drawn(shown: dict[str, ReportFigure]) -> dict[str, str]:
    return {name: figure.svg for name, figure in shown.items()}


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


def made(table: pd.DataFrame, *, name: str = "ssim") -> Report:
    result = report.result_table(statistics.summarise(table), metric=name, name=Cell)
    comparison = report.comparison_table(statistics.compare(table, "lbcs"), metric=name, name=Cell)
    return Report(
        title="Invented",
        subtitle="of nobody",
        warning="",
        headline=[result],
        sections=[Section("Results", [result]), Section("Tests", ["Words", comparison], [result])],
        content={"task": {"budget": BUDGET}},
        episodes=episodes(),
        episode_title="one scan",
    )


class Outline(html.parser.HTMLParser):
    """Checks that tags close in order; collects headings, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for name, v in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in {"meta", "input", "img", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for name, v in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.headings += [data] if self.open[-1:] == ["h2"] else []
        if not {"script", "style"} & set(self.open):
            self.words += data


def test_the_page_is_well_formed_and_loads_nothing(
    table: pd.DataFrame, shown: dict[str, ReportFigure]
) -> None:
    curves = Section("Curves", list(shown.values()))
    page = replace(made(table), sections=[*made(table).sections, curves])
    outline = Outline(page.html(command="activemri benchmark --seed 0"))
    assert outline.open == [] and outline.links
    assert all(link.startswith(("data:", "#")) for link in outline.links)
    assert outline.headings[:4] == ["Results", "One scan, step by step", "Tests", "Curves"]
    assert "activemri benchmark --seed 0" in outline.words


def test_without_episodes_there_is_no_player(table: pd.DataFrame) -> None:
    text = replace(made(table), episodes=()).html()
    assert "step by step" not in text and "<script>" not in text


def test_everything_given_is_escaped() -> None:
    nasty = "</script><script>alert('$x$')</script>"
    table = invented((nasty, "lbcs"))
    figure = figures.score_figure(
        statistics.score_curves(table),
        metric="ssim",
        reconstructor="unet",
        palette=figures.colours([nasty, "lbcs"]),
    )
    page = replace(
        made(table),
        title=nasty,
        subtitle=nasty,
        warning=nasty,
        content={"task": {nasty: nasty}},
        episode_title=nasty,
        episodes=episodes(policies=(nasty, "lbcs")),
        sections=[
            *made(table).sections,
            Section(nasty, [nasty, replace(figure, title=nasty, caption=nasty)]),
        ],
    )
    text = page.html(command=nasty)
    assert nasty not in text and "<script>alert" not in text
    assert text.count("</script>") == 1
    assert nasty in Outline(text).words


def test_script_of_the_page_is_valid_javascript(tmp_path: Path, table: pd.DataFrame) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = made(table).html().split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.js").write_text(script)
    assert subprocess.run([node, "--check", str(tmp_path / "page.js")], check=False).returncode == 0


def test_many_large_frames_are_made_to_fit(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = replace(made(table), episodes=episodes(40))
    plenty = len(page.html())
    monkeypatch.setattr(report, "FRAME_BYTES", 20_000)
    assert len(page.html()) < 0.7 * plenty


@pytest.mark.parametrize(("metric", "best"), [("ssim", max), ("mse", min)])
def test_the_best_competitor_is_marked_and_no_bound(
    table: pd.DataFrame, metric: str, best: Any
) -> None:
    shown = lines_of(report.result_table(statistics.summarise(table), metric=metric, name=Cell))
    for reconstructor in ("zero-filled", "unet"):
        rivals = {policy: shown[policy, reconstructor] for policy in ("random", "lbcs")}
        areas = {policy: float(cells[2].value) for policy, cells in rivals.items()}
        marked = [policy for policy, cells in rivals.items() if cells[2].style == "best"]
        assert [areas[policy] for policy in marked] == [best(areas.values())]
        assert all(shown[policy, reconstructor][2].style == "" for policy in BOUNDS)


def test_scans_of_each_policy_are_counted_where_they_differ(table: pd.DataFrame) -> None:
    fewer = table[(table["policy"] != "oracle") | (table["subject"] == "s0")]
    rows = statistics.summarise(fewer)
    shown = report.result_table(rows, metric="ssim", name=Cell)
    assert shown.header[-1] == "slices"
    assert lines_of(shown)["oracle", "unet"][-1] == 1 != lines_of(shown)["lbcs", "unet"][-1]


def test_so_few_subjects_give_no_verdict_and_eight_that_agree_do() -> None:
    def shown(n_subjects: int, metric: str = "ssim") -> Table:
        rows = statistics.compare(invented(n_subjects=n_subjects), "lbcs")
        return report.comparison_table(rows, metric=metric, name=Cell)

    few = shown(4)
    # One rival besides two bounds, which are not tested: it alone is not corrected for.
    assert "no p below 0.125" in few.notes[0]
    assert lines_of(few)["random", "unet"][3].value == "0.125"
    assert not any(cell.style for cells in lines_of(few).values() for cell in cells[2:])
    for metric in ("ssim", "mse"):
        cells = lines_of(shown(8, metric))
        verdicts = {policy: row[3].style for (policy, _), row in cells.items()}
        assert verdicts == {"random": "worse", "oracle": "", "exchange-oracle": ""}


def test_one_subject_is_reported_without_intervals() -> None:
    page = made(invented(n_subjects=1))
    assert "too few subjects" in page.text()
    assert not re.search(r"\b(nan|None)\b", page.text() + Outline(page.html()).words)
    assert "With one subject there are no intervals" in report._few_subjects(1)
    assert "With 4 subjects intervals are wide" in report._few_subjects(4)
    assert report._few_subjects(40) == ""


def test_scores_that_were_not_reached_are_told(table: pd.DataFrame) -> None:
    rows = statistics.lines_to_reach(table, {"ssim": 0.7})
    shown = lines_of(report.reach_table(rows, name=Cell))
    assert shown["random", "unet"][4].value == "not reached"
    assert shown["random", "unet"][5].value == "at least 13.0"
    assert shown["oracle", "unet"][3].value == "100 %"


@pytest.mark.parametrize(
    ("value", "metric", "name", "expected"),
    [
        (0.87654, "ssim", "SSIM", "0.8765"),
        (31.4159, "psnr_volume", "PSNR (volume range)", "31.42"),
        (0.12345, "roi_ssim", "SSIM (region of interest)", "0.1235"),
        (0.0201, "nmse", "NMSE", "0.0201"),
        (0.02, "nmse", "NMSE", "0.0200"),
        (123.4, "mse", "MSE", "123"),
        (None, "ssim", "SSIM", "\u2013"),
    ],
)
def test_metrics_have_names_and_digits_for_people(
    value: float | None, metric: str, name: str, expected: str
) -> None:
    assert statistics.metric_name(metric) == name
    assert statistics.formatted(value, metric) == expected
    if value is not None:
        assert statistics.formatted(value, metric, signed=True) == f"+{expected}"
        assert statistics.formatted(-value, metric) == f"\u2212{expected}"


def test_figures_are_svg_without_outside_references(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        references = [
            value
            for element in root.iter()
            for name, value in element.attrib.items()
            if name.endswith("href")
        ]
        assert all(reference.startswith(("#", "data:")) for reference in references)
        assert "currentColor" in svg and figures.INK not in svg


def test_figures_name_their_policies_and_mark_bounds(drawn: dict[str, str]) -> None:
    words = {n: [e.text for e in ET.fromstring(s).iter(f"{SVG}text")] for n, s in drawn.items()}
    assert {"random", "lbcs", "oracle (bound)", "acquired lines", "SSIM"} <= set(words["score"])
    assert drawn["score"].count("stroke-dasharray") == 2  # the two bounds
    assert {"random", "oracle"} <= set(words["difference"])
    assert "lbcs" not in words["difference"]
    assert "3.0 of 3 shared" in words["actions"] and "share of scans" in words["actions"]
    assert "SSIM, area; colour: against lbcs" in words["transfer"]


def test_the_same_results_give_the_same_figure(table: pd.DataFrame, drawn: dict[str, str]) -> None:
    rows = statistics.summarise(table)
    again = figures.transfer_figure(rows, metric="ssim", reference="lbcs").svg
    assert again == drawn["transfer"]


def test_figures_of_one_page_share_no_clip_paths(table: pd.DataFrame) -> None:
    rows, palette = statistics.score_curves(table), figures.colours(POLICIES)
    paths = [
        set(
            re.findall(
                r'clipPath id="([^"]+)"',
                figures.score_figure(rows, metric="ssim", reconstructor=name, palette=palette).svg,
            )
        )
        for name in ("unet", "zero-filled")
    ]
    assert paths[0] and paths[1] and not paths[0] & paths[1]


def test_policies_have_colours_of_their_own() -> None:
    names = [f"policy {n}" for n in range(11)] + ["oracle", "exchange-oracle"]
    assert len(set(figures.colours(names, bounds=BOUNDS).values())) == 13
    without = figures.colours([name for name in names if name != "oracle"], bounds=BOUNDS)
    assert without["policy 10"] == figures.colours(names, bounds=BOUNDS)["policy 10"]


def test_many_curves_can_be_told_apart() -> None:
    def drawing(n: int) -> str:
        names = tuple(f"policy {i}" for i in range(n))
        rows = statistics.score_curves(invented(names))
        palette = figures.colours(names)
        which: dict[str, Any] = {"metric": "ssim", "reconstructor": "unet"}
        return figures.score_figure(rows, palette=palette, **which).svg

    few, many = drawing(figures.MOST_BANDS), drawing(13)
    assert few.count("FillBetweenPolyCollection") == figures.MOST_BANDS
    assert "FillBetweenPolyCollection" not in many, "bands would hide the curves"
    assert "stroke-dasharray" not in few
    assert many.count("stroke-dasharray") == 2, "eleven colours: the last two are used again"


def test_taken_share_counts_each_line_when_it_was_taken() -> None:
    share = figures.taken_share(taken_actions(("lbcs",)), n_actions=6)
    # One volume takes 1, 2, 3 and the other 2, 3, 4.
    np.testing.assert_allclose(
        share, [[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5, 0]]
    )


def test_names_at_the_ends_keep_apart_in_order() -> None:
    moved = figures.kept_apart(np.array([0.1, 0.5, 0.5, 0.51, 0.9]), gap=0.1)
    assert moved[0] == 0.1 and moved[-1] == 0.9
    assert (np.diff(moved) >= 0.1 - 1e-12).all()
    assert np.mean(moved[1:4]) == pytest.approx(np.mean([0.5, 0.5, 0.51]))


SCORES = {("a", "x"): 0.8, ("b", "x"): 0.85, ("a", "y"): 0.6, ("b", "y"): 0.55}


def transfers(metric: str = "ssim") -> list[dict[str, object]]:
    return [
        {"policy": p, "reconstructor": r, "metric": metric, "auc": score, "final": score + 0.1}
        for (p, r), score in SCORES.items()
    ]


def test_the_heat_map_has_policies_in_rows_and_leaves_out_what_was_not_run() -> None:
    def shown(*rows: dict[str, object], quantity: str = "auc") -> list[str | None]:
        figure = figures.transfer_figure(rows, metric="ssim", reference="a", quantity=quantity)
        return [element.text for element in ET.fromstring(figure.svg).iter(f"{SVG}text")][:-1]

    names, every, fewer = ["x", "y", "a", "b"], transfers(), transfers()[:3]
    assert shown(*every) == [*names, "0.800", "0.600", "0.850", "0.550"]
    assert shown(*fewer, quantity="final") == [*names, "0.900", "0.700", "0.950"]
    # As they first appear, not in the order of the alphabet.
    assert shown(*every[::-1])[:4] == ["y", "x", "b", "a"]
    with pytest.raises(ValueError, match="no rows of the metric 'psnr'"):
        figures.transfer_figure(every, metric="psnr", reference="a")


def test_a_smaller_error_is_the_better_colour_of_the_heat_map() -> None:
    def image(metric: str) -> str:
        figure = figures.transfer_figure(transfers(metric), metric=metric, reference="a")
        colours = next(ET.fromstring(figure.svg).iter(f"{SVG}image"))
        return next(value for name, value in colours.items() if name.endswith("href"))

    assert image("nmse") != image("ssim") == image("psnr")
