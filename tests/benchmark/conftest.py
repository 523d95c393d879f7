import functools
from collections.abc import Iterator

import pytest

from activemri.data import sources


@pytest.fixture(scope="module", autouse=True)
def phantoms_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "open_dataset", functools.cache(sources.open_dataset))
        yield
