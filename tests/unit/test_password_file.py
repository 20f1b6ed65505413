"""The file with the password of a Redis of the user's own: nobody else may read it, and it holds a password."""

from pathlib import Path

import pytest

from pipeline.config import Camera, Config, Infer, Publish
from pipeline.core.errors import ConfigError
from pipeline.redis.login import redis_password


def config(file: Path) -> Config:
    publish = Publish(redis="redis://127.0.0.1:1/0", password_file=str(file))
    return Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="ilcs-neu"), publish=publish, state_dir="s")


def test_a_password_is_read_without_its_line_end(tmp_path: Path) -> None:
    (file := tmp_path / "password").write_text("secret\n")
    file.chmod(0o600)

    assert redis_password(config(file)) == "secret"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    (file := tmp_path / "password").write_text("secret")
    file.chmod(mode)

    with pytest.raises(ConfigError, match="can be read by others; chmod 600 it"):
        redis_password(config(file))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "is not text"), (None, "is not a file")]
)
def test_a_file_without_a_password_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
        file.chmod(0o600)

    with pytest.raises(ConfigError, match=said):
        redis_password(config(file))
