"""Fixtures of every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Sums of several threads come in any order: results would differ in the last bit from run to run.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests share, such as fixtures of a module, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVEMRI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for every test."""
    monkeypatch.setenv("ACTIVEMRI_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans beside the repository; the test is skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}")
    return folder
