import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n")[-2][:40])
def test_the_examples_in_the_readme_run(example: str) -> None:
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


def test_the_readme_names_no_folder_that_is_missing() -> None:
    root = Path(__file__).parents[1]
    named = re.findall(r"^\| `([\w/]+/)`", README, flags=re.MULTILINE)
    assert len(named) > 5
    assert [folder for folder in named if not (root / folder).is_dir()] == []
