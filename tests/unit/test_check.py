"""What is wrong with a configuration on this machine, found before anything starts."""

import os
from pathlib import Path

import pytest

from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import make_private
from pipeline.core.errors import ConfigError
from pipeline.diagnostics.check import check

STRANGER = 4242


def config(state: Path, line: str = "line1") -> Config:
    return Config(
        line=line, cameras={"top": Camera(source="folder:/", when_full="block")}, infer=Infer(model="ilcs-neu"), state_dir=str(state)
    )


def test_a_state_folder_of_another_line_is_refused(tmp_path: Path) -> None:
    """Its events would go to this line's stream, and those of the other line's readers would never come."""
    (tmp_path / "line.json").write_text('{"line": "other"}')

    (problem,) = check(config(tmp_path))

    assert f"{tmp_path} is that of line other" in problem
    assert check(config(tmp_path, line="other")) == []


@pytest.mark.parametrize("text", ["", "[]", '{"line": 3}', '{"line": ', "\0"])
def test_a_damaged_note_of_the_line_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text(text)

    assert check(config(tmp_path)) == []


def test_a_state_folder_that_sqlite_cannot_open_is_refused(tmp_path: Path) -> None:
    state = tmp_path.joinpath(*["x" * 100] * 5)

    (problem,) = check(config(state))

    assert "longer than 480 bytes" in problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_what_another_user_left_in_the_state_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line once run by root, and then given back by halves."""
    (spool := tmp_path / "spool").mkdir()
    (events := spool / "events.db").write_text("")
    os.chown(tmp_path, STRANGER, -1)
    os.chown(spool, STRANGER, -1)
    (others := tmp_path / "others").mkdir()  # what a link leads to is not the line's
    (others / "model").write_text("")
    (tmp_path / "engines").symlink_to(others)
    os.lchown(tmp_path / "engines", STRANGER, -1)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    (problem,) = check(config(tmp_path))

    assert f"{events} belongs to another user; chown" in problem  # and no more than that


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of another user")
def test_a_folder_of_another_user_in_the_place_of_the_sockets_is_named(tmp_path: Path) -> None:
    (folder := tmp_path / f"linepipe-{os.getuid()}").mkdir(mode=0o700)
    os.chown(folder, STRANGER, -1)

    with pytest.raises(ConfigError, match=f"{folder}.* belongs to user {STRANGER}; ask that user or root"):
        make_private(folder / "run")
