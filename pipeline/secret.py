"""How to log in to a line's Redis. Passwords come from the environment or 0600 files, never from configuration or command line."""

import os
import stat
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.plain_file import read_plain
from pipeline.redis_users import READER, WRITER, password_of
from pipeline.topology import Endpoints, runtime_dir
from pipeline.user_path import is_file

VARIABLE = "LINEPIPE_REDIS_PASSWORD"


class Login(msgspec.Struct, frozen=True):
    """Address (with the user's name, if it has one) and password of a Redis."""

    url: str
    password: str | None

    def __repr__(self) -> str:
        return f"Login({self.url!r}, password not shown)"


def reader_login(config: Config) -> Login:
    """For those who read the line's events."""
    return _login(config, READER)


def writer_login(config: Config) -> Login:
    """For the publish node, which writes them."""
    return _login(config, WRITER)


def _login(config: Config, user: str) -> Login:
    """The embedded server is reached over its socket in the runtime folder: nobody else's server can be there."""
    if config.publish.redis != "embedded":
        return Login(config.publish.redis, redis_password(config))
    return Login(f"unix://{user}@{Endpoints(runtime_dir(config)).redis}", password_of(config.state / "redis", user))


def redis_password(config: Config) -> str | None:
    """The password of a Redis of the user's own, or None where there is none. Raises ``ConfigError`` for a file that others may read."""
    name = config.publish.password_file
    if name is None:
        return os.environ.get(VARIABLE)
    path = Path(name)
    try:
        if not is_file(path):
            raise ConfigError(f"{name} is not a file")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{name} can be read by others; chmod 600 it")
        password = read_plain(path).decode("utf-8").strip()
    except ConfigError as exc:
        raise ConfigError(f"publish.password_file: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"publish.password_file: {name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"publish.password_file: {name} is not text") from exc
    if not password:
        raise ConfigError(f"publish.password_file: {name} is empty")
    return password
