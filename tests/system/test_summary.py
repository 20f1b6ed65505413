"""``--summary`` on a descriptor, as /dev/stdout: the user's log behind it is added to, never replaced or removed."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.line import LINEPIPE, Line


@pytest.mark.parametrize(
    ("redirection", "summary"),
    [(">>log", "/dev/stdout"), ("2>>log", "/dev/stderr"), ("7>>log", "/dev/fd/7"), ("7>>log", "link"), (">log", "/proc/self/fd/1")],
)
def test_a_summary_goes_through_a_descriptor(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path, redirection: str, summary: str
) -> None:
    make_images(tmp_path / "images", 2)
    (link := tmp_path / "link").symlink_to("link2")
    (tmp_path / "link2").symlink_to("/dev/fd/7")
    (log := tmp_path / "log").write_text("earlier\n")
    inode = log.stat().st_ino
    run = [*LINEPIPE, "run", str(make_line().config), "--summary", summary]

    script = f"{shlex.join(run)} {redirection}; code=$?; echo later >>log; exit $code"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, timeout=120)

    text = log.read_text()
    assert done.returncode == 0 and log.stat().st_ino == inode
    assert text.startswith("earlier\n") == (">>" in redirection) and text.endswith("later\n")
    found, _ = json.JSONDecoder().raw_decode(text[text.index('{\n  "') :])
    assert found["cameras"]["top"]["acquired"] == 2
    assert link.is_symlink() and not list(tmp_path.glob("*(deleted)*"))


def test_a_descriptor_that_nobody_handed_over_is_refused_at_the_start(make_line: Callable[..., Line], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    line = make_line()

    for summary, redirection in (("/dev/fd/9", ""), ("/dev/stdin", "<line.yaml"), ("/dev/fd/4", "")):
        script = f"{shlex.join([*LINEPIPE, 'run', str(line.config), '--summary', summary])} {redirection}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)

        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"the summary {summary} cannot be written" in done.stderr
    assert (tmp_path / "line.yaml").read_text().startswith("cameras")
