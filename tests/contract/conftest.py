"""What several contract tests start, and stop afterwards."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.contract.post import Post


@pytest.fixture
def post(tmp_path: Path, server: Server) -> Iterator[Post]:
    found = Post(tmp_path, server)
    yield found
    found.stop()
    found.spool.close()
    assert found.sink.failed is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 24 MB."""
    with _disk(tmp_path, "size=24m") as folder:
        yield folder


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that takes 40 files and folders."""
    with _disk(tmp_path, "size=40m,nr_inodes=40") as folder:
        yield folder


@contextmanager
def _disk(tmp_path: Path, options: str) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs root, to mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
