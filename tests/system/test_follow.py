"""``linepipe events`` beside a line: opened before it, it gives way and then follows."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.system.line import LINEPIPE, Line


def test_followed_before_it_runs_a_line_starts_and_is_followed(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """The first run's events come at once, the second's as they are published, each once."""
    make_images(tmp_path / "images", 5)
    line = make_line()
    line.run()
    command = [*LINEPIPE, "events", str(line.config), "--follow", "--type", "defect"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        found = [json.loads(follower.stdout.readline()) for _ in range(5)]

        line.run("--frames", "5")
        found += [json.loads(follower.stdout.readline()) for _ in range(5)]
        follower.terminate()

    assert len({e["id"] for e in found}) == 10
    assert len({e["epoch"] for e in found}) == 2
    assert len(line.defects()) == 5
