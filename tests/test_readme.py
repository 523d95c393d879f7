"""The examples of the README run; the first one on a few tiny scans instead of phantoms."""

import re
from pathlib import Path

import pytest

from tests.data.files import write_image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT, *EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
TINY = {
    'data="phantom", budget=24, reconstructor="cresnet"': 'data="scans", budget=2',
    "states=500": "states=2, n_tried=2, rounds=1, max_steps=2",
}


def run(example: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), names)
    return names


def test_the_first_screen_is_a_figure_and_ten_lines_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = README[: README.index("```\n", README.index("```python"))].split("\n")
    assert len(screen) < 30 and any(line.startswith("![") for line in screen)
    assert len([line for line in FRONT.split("\n") if line]) <= 10
    monkeypatch.chdir(tmp_path)
    for number, split in enumerate(("train", "train", "val", "test", "test")):
        about = {"subject_id": f"s{number}", "split": split}
        path = tmp_path / "scans" / f"{number}.h5"
        write_image(path, shape=(1, 16, 16), seed=number, magnitude=False, **about)
    example = FRONT
    for usual, small in TINY.items():
        assert usual in example
        example = example.replace(usual, small)
    names = run(example)
    assert {"random", "lbcs"} < set(names["table"]["policy"])  # type: ignore[index]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n")[-2][:40])
def test_the_other_examples_run(example: str) -> None:
    run(example)


def test_the_policy_of_the_readme_is_that_of_the_document() -> None:
    extending = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert all(example in extending for example in EXAMPLES if example.startswith("# "))


def test_the_readme_names_no_folder_that_is_missing() -> None:
    named = re.findall(r"^\| `([\w/]+/)`", README, flags=re.MULTILINE)
    assert len(named) > 5
    assert [folder for folder in named if not (ROOT / folder).is_dir()] == []


def test_the_speed_of_the_readme_is_that_of_the_document() -> None:
    marked = README.split("<!-- by docs/make_speed.py -->")[1].split("<!-- end -->")[0]
    rows = marked.strip().splitlines()
    assert len(rows) > 8
    document = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert [row for row in rows if f"\n{row} " not in document] == []
