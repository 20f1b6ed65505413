"""The two users of the embedded Redis: their rights, their passwords, and the files that hold these under ``state_dir/redis``.

``writer`` writes the line's stream; its password is new for each run, so that only the server of this run accepts it.
``reader`` reads the stream and keeps consumer groups; its password stays, so that clients need not be told again. To
give it a new one, delete the file ``reader`` and start the line again. There is no other user.
"""

import hashlib
import secrets
from pathlib import Path

from pipeline.durable import write_durable
from pipeline.errors import ConfigError
from pipeline.plain_file import read_plain
from pipeline.private import write_private

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
"""Nobody can log in as it. It has all rights because the server loads its own data as this user: without them it drops every
transaction in there, without a word (Valkey 8.1, Redis 7.0)."""
_LEAST = 32  # characters of a password that was not cut short


def write_users(folder: Path, stream: str, writer: str) -> None:
    """Put the passwords and the server's ACL file into ``folder``; ``writer`` is a password. The reader's stays if there is one.

    Raises ``OSError``.
    """
    reader = _kept(folder / READER)
    if reader is None:
        reader = secrets.token_hex()
        write_durable(folder / READER, reader.encode())  # clients are told once
    write_private(folder / WRITER, writer.encode())
    lines = [_NOBODY, _user(WRITER, writer, stream, _COMMON, _WRITES), _user(READER, reader, stream, _COMMON, _READS)]
    write_private(folder / USERS, "".join(line + "\n" for line in lines).encode())


def password_of(folder: Path, user: str) -> str:
    """The password that a running line, or the last one, gave a user. Raises ``ConfigError``."""
    path = folder / user
    try:
        password = read_plain(path).decode("ascii")
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there: the embedded Redis has never run; start it with `linepipe run`") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read ({exc}); it is written anew when the line starts") from exc
    return password


def _user(name: str, password: str, stream: str, *commands: str) -> str:
    """One line of the ACL file; passwords stand there as digests."""
    rights = " ".join(f"+{command}" for group in commands for command in group.split())
    digest = hashlib.sha256(password.encode()).hexdigest()
    return f"user {name} on #{digest} resetkeys resetchannels ~{stream} &{stream} -@all {rights}"


def _kept(path: Path) -> str | None:
    """The reader's password of earlier runs; None if there is none, or it is damaged."""
    try:
        password = read_plain(path).decode("ascii")
    except (OSError, UnicodeDecodeError):  # it is written anew, and a folder that cannot be written raises there
        return None
    return password if len(password) >= _LEAST and password.isalnum() else None
