"""``linepipe events`` beside a line: opened before it, it gives way and then follows."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import redis

from pipeline.config import Camera, Config, Infer
from pipeline.redis.login import writer_login
from pipeline.redis.server import EmbeddedServer, running_url
from pipeline.system.folder_lock import lock_state
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


def test_a_pager_that_is_closed_late_leaves_the_line_s_server_alone(tmp_path: Path) -> None:
    """Nobody reads what `events` prints while a line starts; when its pager is closed, the line has its server and its files."""
    config = Config(
        line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="ilcs-line"), state_dir=str(tmp_path / "state")
    )
    path = tmp_path / "line.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    before = EmbeddedServer(config)
    before.start()
    login = writer_login(config)
    alarm = {"type": "alarm", "v": 1, "id": "x", "line": "line1", "name": "n", "active": True, "text": "t" * 1000, "at": "now"}
    with redis.Redis.from_url(login.url, password=login.password) as writer, writer.pipeline(transaction=False) as pipe:
        for _ in range(500):
            pipe.xadd(config.stream, {"data": json.dumps(alarm)})
        pipe.execute()
    before.stop()
    reading = subprocess.Popen([*LINEPIPE, "events", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout is not None and reading.stderr is not None
    reading.stdout.readline()

    lock, line = lock_state(config.state), EmbeddedServer(config)
    try:
        line.start()
        reading.stdout.close()
        reading.wait(30)

        assert line.answers()
        assert running_url(config.state) == line.url
        assert writer_login(config).password not in (None, login.password)
    finally:
        reading.kill()
        reading.stderr.close()
        line.stop()
        os.close(lock)
