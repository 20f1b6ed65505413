"""The state folder that a run holds: whatever is moved, replaced or removed there comes back, or is told as what it is."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.config import Camera, Config, Infer
from pipeline.runtime import folders as state_folder
from pipeline.runtime.folders import StateFolder
from pipeline.system.folder_lock import is_running, lock_folder

FILES = ("line.json", "model.safetensors", "run.json")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="ilcs-neu"), state_dir=str(tmp_path / "state"))


@pytest.fixture
def held(config: Config) -> StateFolder:
    found = StateFolder(config)
    assert found.turn() == ""
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def completed(state: Path) -> str:
    """The note of the run as publish completes it."""
    return json.dumps({**json.loads((state / "run.json").read_text()), "first_id": "7-0"})


def content(state: Path) -> list[bytes]:
    return [(state / name).read_bytes() for name in FILES]


def test_removed_files_come_back_as_they_were(held: StateFolder, state: Path) -> None:
    (state / "run.json").write_text(completed(state))
    held.turn()
    before = content(state)
    for name in FILES:
        (state / name).unlink()

    assert held.turn() == f"model.safetensors, line.json, run.json in {state}: removed or changed by somebody, and written again"
    assert content(state) == before
    assert held.turn() == ""
    held.close()


def test_what_publish_notes_while_the_folder_is_looked_at_is_no_damage(
    held: StateFolder, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, note = state_folder._state_of, completed(state)

    def look_late(path: Path) -> tuple[int, ...]:
        if path.name == "run.json":
            (state / "part").write_text(note)
            (state / "part").rename(path)
        return look(path)

    monkeypatch.setattr(state_folder, "_state_of", look_late)

    assert held.turn() == ""
    assert (state / "run.json").read_text() == note
    held.close()


def test_the_note_of_an_earlier_run_is_not_taken_for_that_of_this_one(held: StateFolder, state: Path, config: Config) -> None:
    (state / "run.json").write_text(completed(state))
    held.turn()
    held.close()

    again = StateFolder(config)

    assert json.loads((state / "run.json").read_text())["first_id"] is None
    again.close()


@pytest.mark.parametrize("name", ["line.json", "model.safetensors"])
def test_files_that_are_changed_in_place_come_back_too(held: StateFolder, state: Path, name: str) -> None:
    """By an older backup that is copied over them, with the old times."""
    before, found = content(state), (state / name).stat()
    data = (state / name).read_bytes()
    (state / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(state / name, ns=(found.st_atime_ns, found.st_mtime_ns))

    assert held.turn() == f"{name} in {state}: removed or changed by somebody, and written again"
    assert content(state) == before
    os.utime(state / name)
    assert held.turn() == ""
    held.close()


def test_a_folder_in_place_of_a_file_is_named_until_it_is_gone(held: StateFolder, state: Path) -> None:
    before = content(state)
    (state / "line.json").unlink()
    (state / "line.json").mkdir()

    assert "cannot be written again: [Errno 21] Is a directory" in held.turn()
    (state / "line.json").rmdir()
    held.turn()

    assert content(state) == before
    held.close()


def test_a_folder_that_is_moved_and_put_back_is_the_line_s_again(held: StateFolder, state: Path) -> None:
    """Nobody else is blamed for the lock, which is the line's own."""
    state.rename(state.with_name("moved"))
    assert "was moved or replaced" in held.turn()
    shutil.rmtree(state)
    state.with_name("moved").rename(state)

    assert "was moved or replaced" in held.turn()
    assert held.turn() == ""
    assert is_running(state)
    held.close()
    assert not is_running(state)


def test_a_folder_of_another_line_in_its_place_is_told(held: StateFolder, state: Path) -> None:
    state.rename(state.with_name("moved"))
    state.mkdir(mode=0o700)
    other = lock_folder(state)
    assert other is not None

    assert "another line runs on the folder that is there now" in held.turn()
    assert list(state.iterdir()) == []
    os.close(other)
    assert "it goes on in the folder that is there now" in held.turn()
    held.close()


def test_a_backup_is_brought_up_to_date_as_soon_as_that_can_be(held: StateFolder, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are those of another day; the disk is full at first."""
    before = content(state)
    state.rename(state.with_name("moved"))
    state.mkdir(mode=0o755)
    for name in FILES:
        (state / name).write_text("of another day")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_folder, "write_private", full)
        assert "cannot be written again: [Errno 28]" in held.turn()
        assert "cannot be written again: [Errno 28]" in held.turn()
    held.turn()

    assert content(state) == before
    assert state.stat().st_mode & 0o777 == 0o700
    held.close()
