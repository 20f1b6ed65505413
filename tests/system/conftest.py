"""Lines that start, and are gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.line import Line
from tests.tiny import write_tiny_model

USER = f"linepipe-other-{os.environ.get('PYTEST_XDIST_WORKER', '')}".rstrip("-")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and the converted models of all lines of the session."""
    folder = tmp_path_factory.mktemp("shared")
    write_tiny_model(folder)
    return folder


@pytest.fixture
def make_line(tmp_path: Path, shared: Path) -> Iterator[Callable[..., Line]]:
    """A line in ``tmp_path``; keyword arguments change its configuration."""
    made: list[Line] = []

    def make(**changes: Any) -> Line:
        made.append(Line(tmp_path, shared, **changes))
        return made[-1]

    yield make
    for line in made:
        line.close()


@pytest.fixture
def other() -> Iterator[pwd.struct_passwd]:
    """A user made for the test."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("needs root and useradd: a second user of the machine is made")
    subprocess.run(["useradd", "--system", "--no-create-home", USER], check=True, capture_output=True)
    yield pwd.getpwnam(USER)
    subprocess.run(["userdel", USER], check=True, capture_output=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can look into; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="linepipe-private-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
