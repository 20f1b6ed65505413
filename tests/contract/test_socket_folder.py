"""The folder of a run's sockets: somebody who removes or locks it costs words, never the line."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import make_private
from pipeline.runtime import folders as run_folder
from pipeline.runtime.folders import RunFolder
from pipeline.system.folder_lock import is_running


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    config = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir=str(tmp_path))
    found = RunFolder(config)
    yield found
    found.close()


def test_a_cleaner_that_holds_the_new_folder_is_waited_for(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It locks what it looks into, as systemd-tmpfiles does, and does so before the line can."""
    cleaner: list[int] = []

    def made(path: Path) -> Path:
        make_private(path)
        if not cleaner:
            cleaner.append(os.open(path, os.O_RDONLY))
            fcntl.flock(cleaner[0], fcntl.LOCK_EX)
        return path

    monkeypatch.setattr(run_folder, "make_private", made)
    shutil.rmtree(folder.path)

    first, second = folder.turn(), folder.turn()
    os.close(cleaner[0])
    third, fourth = folder.turn(), folder.turn()

    assert "cannot be created again" in first and first == second
    assert "it is created again" in third and fourth == ""
    assert is_running(folder.path)


def test_a_folder_that_is_moved_away_is_made_again(folder: RunFolder) -> None:
    folder.path.rename(away := folder.path.with_name("away"))

    assert "it is created again" in folder.turn() and folder.turn() == ""
    assert is_running(folder.path)
    shutil.rmtree(away)


def test_a_folder_that_another_took_the_place_of_is_locked_and_told(folder: RunFolder) -> None:
    folder.path.rename(away := folder.path.with_name("away"))
    folder.path.mkdir(mode=0o700)

    assert "it is created again" in folder.turn() and folder.turn() == ""
    assert is_running(folder.path)
    shutil.rmtree(away)
