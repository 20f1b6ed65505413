"""Lines that start, and are gone afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.line import Line


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted models, shared by all lines of the session."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def make_line(tmp_path: Path, engines: Path) -> Iterator[Callable[..., Line]]:
    """A line in ``tmp_path``; keyword arguments change its configuration."""
    made: list[Line] = []

    def make(**changes: Any) -> Line:
        made.append(Line(tmp_path, engines, **changes))
        return made[-1]

    yield make
    for line in made:
        line.close()
