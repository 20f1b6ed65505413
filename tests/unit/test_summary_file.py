"""The summary goes where it is asked to go, or an error says why not; nothing holds up the end of a run."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.runtime import summary as summary_file
from pipeline.runtime.summary import prepare_summary, write_summary


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(path := tmp_path / "fifo")
    return path


def test_a_pipe_that_nobody_reads_is_an_error_at_once(fifo: Path) -> None:
    with pytest.raises(OSError, match="nobody reads it; start the reader"):
        write_summary(fifo, {"line": "l"}, mode=0o600)


def test_a_pipe_whose_reader_hangs_is_an_error(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_file, "READER_MS", 10.0)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    with pytest.raises(OSError, match="nobody reads it"):
        write_summary(fifo, {"long": "x" * (1 << 20)}, mode=0o600)
    os.close(reader)


def test_a_pipe_gets_the_whole_summary(fifo: Path) -> None:
    fd, read = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), list[bytes]()
    os.set_blocking(fd, True)

    def reads() -> None:
        with open(fd, "rb") as file:
            read.append(file.read())

    keep = os.open(fifo, os.O_WRONLY)  # or a reader that comes first finds the end
    thread = threading.Thread(target=reads)
    thread.start()
    write_summary(fifo, found := {"long": "x" * (1 << 20)}, mode=0o600)
    os.close(keep)
    thread.join(20)

    assert json.loads(read[0]) == found


def test_a_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        prepare_summary(tmp_path)


def test_a_device_is_left_alone() -> None:
    prepare_summary(Path("/dev/null"))
    write_summary(Path("/dev/null"), {}, mode=0o600)

    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    "place", [f"/proc/{os.getpid()}/fd", "/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"], ids=["pid", "self", "thread", "dev"]
)
def test_a_file_behind_a_descriptor_is_added_to(tmp_path: Path, place: str) -> None:
    (log := tmp_path / "log").write_text("earlier\n")
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.set_inheritable(fd, True)

    prepare_summary(path := Path(place, str(fd)))
    write_summary(path, {"line": "l"}, mode=0o600)
    os.write(fd, b"later\n")
    os.close(fd)

    assert log.read_text() == 'earlier\n{\n  "line": "l"\n}\nlater\n'


def test_a_file_behind_a_descriptor_of_another_process_is_added_to(tmp_path: Path) -> None:
    (log := tmp_path / "log").write_text("earlier\n")
    with log.open("a") as file, subprocess.Popen(["sleep", "100"], stdout=file) as other:
        prepare_summary(path := Path(f"/proc/{other.pid}/fd/1"))
        write_summary(path, {}, mode=0o600)
        other.kill()

    assert log.read_text() == "earlier\n{}\n"
