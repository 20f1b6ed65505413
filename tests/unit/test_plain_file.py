"""What lies in place of a small file holds nobody up."""

import os
from pathlib import Path

import pytest

from pipeline.system.files import read_plain


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")

    assert read_plain(tmp_path / "link", 4) == b"data"


def test_a_pipe_a_folder_and_a_file_without_end_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(3 << 30)

    for name, why in (("pipe", "no ordinary file"), ("huge", "too large"), (".", "no ordinary file"), ("none", "No such file")):
        with pytest.raises(OSError, match=why):
            read_plain(tmp_path / name)
