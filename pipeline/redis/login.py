"""How to log in to a line's Redis. Passwords come from the environment or from private files, never from configuration or command line."""

import hashlib
import os
import secrets
import stat
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.config.topology import Endpoints, runtime_dir
from pipeline.core.errors import ConfigError
from pipeline.system.files import read_plain, write_durable, write_private
from pipeline.system.user_path import is_file

VARIABLE = "LINEPIPE_REDIS_PASSWORD"


class Login(msgspec.Struct, frozen=True):
    """Address of a Redis (a URL, with the user's name if there is one) and its password; None if it needs none."""

    url: str
    password: str | None

    def __repr__(self) -> str:
        return f"Login({self.url!r}, password not shown)"


def reader_login(config: Config) -> Login:
    """The login for programs that read the line's events.

    For the embedded server this is the user ``reader``, over its socket in the runtime folder; for another server it is the
    configured URL with ``redis_password``. Raises ``ConfigError`` if the password or the runtime folder cannot be had.
    """
    return _login(config, READER)


def writer_login(config: Config) -> Login:
    """The login for the publish node, which writes the events: as ``reader_login``, with the user ``writer``."""
    return _login(config, WRITER)


def _login(config: Config, user: str) -> Login:
    """The embedded server is reached over its socket in the private runtime folder, where no other user's server can be."""
    if config.publish.redis != "embedded":
        return Login(config.publish.redis, redis_password(config))
    return Login(f"unix://{user}@{Endpoints(runtime_dir(config)).redis}", password_of(config.state / "redis", user))


def redis_password(config: Config) -> str | None:
    """The password of a Redis that is not the embedded one, from ``publish.password_file`` or else from LINEPIPE_REDIS_PASSWORD.

    White space around it in the file is removed. None if neither is set. Raises ``ConfigError`` if the file cannot be seen or is no
    ordinary file, gives rights to other users, cannot be read, is not UTF-8 text, or is empty.
    """
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


WRITER, READER = "writer", "reader"
USERS = "users.acl"
_COMMON = (
    "ping echo hello select quit reset info type exists multi exec discard watch unwatch object|encoding memory|usage command time"
    " client|id client|info client|getname client|setname client|setinfo"
    " xrange xrevrange xlen xinfo xpending"
)
_WRITES = "xadd xtrim publish waitaof"
_READS = "xread xreadgroup xgroup xack xclaim xautoclaim subscribe unsubscribe psubscribe punsubscribe"
_NOBODY = "user default off resetpass ~* &* +@all"
"""Nobody can log in as this user. It has all rights because the server loads its own data as this user: without them it drops every
transaction in the data, silently (Valkey 8.1, Redis 7.0)."""
_LEAST = 32  # characters; a shorter password was cut off


def write_users(folder: Path, stream: str, writer: str) -> None:
    """Write the passwords of both users and the server's ACL file into ``folder``.

    ``stream`` is the only key and channel that the users may use. ``writer`` is the new password of the user ``writer``; the
    reader's is kept if there is a valid one, and made otherwise. Raises ``OSError``.
    """
    reader = _kept(folder / READER)
    if reader is None:
        reader = secrets.token_hex()
        write_durable(folder / READER, reader.encode())  # durable: clients were given it, and must not need another
    write_private(folder / WRITER, writer.encode())
    lines = [_NOBODY, _user(WRITER, writer, stream, _COMMON, _WRITES), _user(READER, reader, stream, _COMMON, _READS)]
    write_private(folder / USERS, "".join(line + "\n" for line in lines).encode())


def password_of(folder: Path, user: str) -> str:
    """The password of ``user`` of the embedded server whose data is in ``folder``, as its last start wrote it.

    Raises ``ConfigError`` if there is none or it cannot be read.
    """
    path = folder / user
    try:
        password = read_plain(path).decode("ascii")
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there: the embedded Redis has never run; start it with `linepipe run`") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read ({exc}); it is written again when the line starts") from exc
    return password


def _user(name: str, password: str, stream: str, *commands: str) -> str:
    """One line of the ACL file; it contains the password's digest, not the password."""
    rights = " ".join(f"+{command}" for group in commands for command in group.split())
    digest = hashlib.sha256(password.encode()).hexdigest()
    return f"user {name} on #{digest} resetkeys resetchannels ~{stream} &{stream} -@all {rights}"


def _kept(path: Path) -> str | None:
    """The reader's password of earlier runs; None if there is none, or it is damaged."""
    try:
        password = read_plain(path).decode("ascii")
    except (OSError, UnicodeDecodeError):  # it is written again, which raises if the folder cannot be written
        return None
    return password if len(password) >= _LEAST and password.isalnum() else None
