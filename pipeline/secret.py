"""The Redis password: from the environment or a 0600 file, never from configuration or command line."""

import os
import stat
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import ConfigError

VARIABLE = "LINEPIPE_REDIS_PASSWORD"


def redis_password(config: Config) -> str | None:
    """The password, or None where there is none. Raises ``ConfigError`` for a file that others may read."""
    name = config.publish.password_file
    if name is None:
        return os.environ.get(VARIABLE)
    path = Path(name)
    try:
        if not path.is_file():
            raise ConfigError(f"publish.password_file: {name} is not a file")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"publish.password_file: {name} can be read by others; chmod 600 it")
        password = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"publish.password_file: {name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"publish.password_file: {name} is not text") from exc
    if not password:
        raise ConfigError(f"publish.password_file: {name} is empty")
    return password
