"""Seeded schedules of faults on a running line: whatever happens to its processes and its Redis, the promises hold.

A seed gives the same faults in the same order; when they come depends on the machine. After a failure, run the seed again:
``LINEPIPE_CHAOS_SEEDS=17 make test-all ARGS=tests/chaos``.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.chaos.faults import FAULTS, LOSING
from tests.chaos.oracle import spooled, violations
from tests.conftest import Server
from tests.system.line import Line

FRAMES, FPS = 700, 60
NOTICED_S = 3.0
"""The publish node compares the stream with its spool every second."""
REAL = 6
"""One image in so many can be judged; the others are damaged, cost nothing, and each has an event too."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(FRAMES):
        jpeg = cv2.imencode(".jpg", rng.integers(0, 256, (64, 64), np.uint8))[1].tobytes()
        (folder / f"{k:05}.jpg").write_bytes(jpeg if k % REAL == 0 else jpeg[: len(jpeg) // 2])
    return folder


@pytest.mark.timeout(240)
def test_a_disturbed_line_keeps_its_promises(
    seed: int, server: Server, make_line: Callable[..., Line], images: Path, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    live = rng.random() < 0.5
    shutil.copytree(images, tmp_path / "images")
    camera = {
        "source": f"folder:{tmp_path / 'images'}?fps={FPS if not live else 2 * FPS}&loop={'true' if live else 'false'}",
        "when_full": "drop_oldest" if live else "block",
        "slots": rng.choice([4, 8, 16]),
    }
    line = make_line(cameras={"top": camera}, infer={"max_batch": rng.choice([1, 4])}, publish={"redis": server.url})
    line.start(*(("--frames", str(FRAMES)) if live else ()))
    line.wait_inspected(5)

    done, late = [], False
    for fault in rng.choices(FAULTS, k=rng.randint(3, 6)):
        if line.ended:
            break
        fault(line, server, rng)
        done.append(fault.__name__)
        late = late or (fault in LOSING and not publishes_for(line, NOTICED_S))
        line.wait_for(rng.uniform(0.0, 1.5))
    summary = line.finish()
    accepted = spooled(line)
    if late:  # Redis lost something when the publish node had looked for the last time: the next run sends it
        line.run("--frames", "1")

    assert violations(line, server, summary, accepted) == [], f"live={live}, {camera}, {done}"


def publishes_for(line: Line, seconds: float) -> bool:
    """Whether the publish node goes on for so long."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if line.ended or line.status()["nodes"]["publish"]["state"] == "ended":
                return False
            line.wait_for(0.05)
    except (KeyError, ValueError):  # no status just now
        return False
    return True
