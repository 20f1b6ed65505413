"""Compiled code is kept whole or made again, whatever was left of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nodes.infer.engines.code_cache import with_kept_code
from nodes.infer.engines.compiled import KEPT
from nodes.infer.engines.load import open_engine
from tests.tiny import write_tiny_model

COMPILES = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: apt-get install g++")


class Code:
    """Stands for a compiler and what it makes: two files, of which ``broken`` ones do not load."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiled = 0
        self.fails = False

    def make(self) -> str:
        if self.fails:
            raise RuntimeError("no memory on the device")
        library = self.folder / "a" / "library"
        if not library.exists():
            self.compiled += 1
            library.parent.mkdir(exist_ok=True)
            library.write_bytes(b"code")
            (self.folder / "index").write_bytes(b"index")
        if library.read_bytes() != b"code":
            raise OSError("invalid ELF header")
        return "engine"

    def open(self) -> str:
        return with_kept_code(self.folder, self.make, lambda: None)


@pytest.fixture(params=["folder", "link"])
def code(request: pytest.FixtureRequest, tmp_path: Path) -> Code:
    """In a folder, or in one that is reached by a link."""
    if request.param == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "engines").symlink_to(tmp_path / "elsewhere")
    return Code(tmp_path / "engines" / KEPT)


def test_what_is_whole_is_found_again(code: Code) -> None:
    assert code.open() == code.open() == "engine"
    assert code.compiled == 1


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def garble(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


@pytest.mark.parametrize("name", ["a/library", "index", "../inductor.seal"])
@pytest.mark.parametrize("damage", [truncate, garble, Path.unlink])
def test_what_is_damaged_is_made_again(code: Code, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    code.open()
    damage(code.folder / name)

    assert code.open() == code.open() == "engine"

    assert code.compiled == 2
    assert "is not whole" in caplog.text


def test_what_a_killed_compiler_left_is_not_loaded(code: Code, caplog: pytest.LogCaptureFixture) -> None:
    (code.folder / "a").mkdir(parents=True)
    (code.folder / "a" / "library").write_bytes(b"co")

    assert code.open() == "engine"
    assert "half compiled" in caplog.text
    (code.folder / "half").write_bytes(b"co")
    assert code.open() == "engine"
    assert not (code.folder / "half").exists()
    assert code.compiled == 1


def test_code_that_is_whole_and_does_not_work_is_made_again_once(code: Code, caplog: pytest.LogCaptureFixture) -> None:
    """It was compiled on another machine, say."""
    code.open()

    def elsewhere() -> str:
        (code.folder / "a" / "library").write_bytes(b"for another processor")
        return "engine"

    with_kept_code(code.folder, elsewhere, lambda: None)

    assert code.open() == code.open() == "engine"

    assert "does not work and is compiled again: invalid ELF header" in caplog.text
    assert code.compiled == 2


def test_code_that_is_not_to_blame_is_kept(code: Code) -> None:
    code.open()
    code.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        code.open()
    code.fails = False

    assert code.open() == "engine"
    assert code.compiled == 1


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], np.ndarray]:
    """Opens the engine ``compiled`` on a tiny network with a cache in ``tmp_path`` and returns its answers."""
    model = write_tiny_model(tmp_path)

    def answers() -> np.ndarray:
        engine = open_engine("compiled", model, tmp_path / "engines", 4)
        return engine(engine.gather(list(engine.golden.tiles))).logits

    return answers


def as_a_new_process() -> None:
    """Have the compiler of this process forget what it has loaded."""
    import torch

    torch._dynamo.reset()
    torch._inductor.utils.clear_caches()


@COMPILES
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_damaged_cache_does_not_keep_the_compiled_engine_from_working(
    opened: Callable[[], np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_a_new_process()  # another test may have loaded the same code from elsewhere
    right = opened()
    files = [path for path in (tmp_path / "engines" / KEPT).rglob("*") if path.is_file() and path.stat().st_size]
    assert any(path.suffix == ".so" for path in files)
    for path in files:
        damaged = path.read_bytes()[: path.stat().st_size // 2] if path.suffix == ".so" else b"garbage"
        path.unlink()  # this process has mapped the old library
        path.write_bytes(damaged)
    as_a_new_process()

    assert np.allclose(opened(), right, atol=1e-3)
    assert "is not whole" in caplog.text


@COMPILES
@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_killed_compilation_does_not_keep_the_next_from_working(opened: Callable[[], np.ndarray], tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.tiny import write_tiny_model;"
        " from nodes.infer.engines.load import open_engine; folder = Path(sys.argv[1]);"
        " open_engine('compiled', write_tiny_model(folder), folder / 'engines', 4)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], start_new_session=True) as process:
        deadline = time.monotonic() + 90
        while not any((tmp_path / "engines").rglob("*.cpp")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)

    assert np.isfinite(opened()).all()
