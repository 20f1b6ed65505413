"""The URLs of a configuration: a camera's ``source``, taken apart, and what ``publish.redis`` may be.

Who offers which scheme of source is ``nodes.capture``'s business. redis-py would say what is wrong with its URL only when
it connects, or let it override linepipe's own options.
"""

import re
from typing import Self
from urllib.parse import parse_qsl

import msgspec

from pipeline.core.errors import ConfigError

FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""Files that ``folder:`` reads."""
OPTIONS = {
    "folder": {"loop": "true or false", "fps": "a number"},
    "video": {"loop": "true or false", "fps": "a number"},
    "sim": {"seed": "a whole number", "fps": "a number", "repeat": "a whole number from 1"},
}
EXAMPLES = {"folder": "folder:PATH[?loop=true&fps=N]", "video": "video:PATH[?loop=true&fps=N]", "sim": "sim:strip[?seed=N&fps=N&repeat=N]"}


class SourceUrl(msgspec.Struct, frozen=True):
    """``scheme:path?options``: ``folder:images?loop=true`` -> folder, images, {"loop": "true"}."""

    scheme: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ``ConfigError`` (without a place) for an unknown scheme or option, or a malformed value."""
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in OPTIONS:
            raise ConfigError(f"{text!r} is not a known source; write {' or '.join(EXAMPLES.values())}")
        path, _, query = rest.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if not path or (scheme == "sim" and path != "strip"):
            raise ConfigError(f"{text!r}: write {EXAMPLES[scheme]}")
        for name, value in options.items():
            if name not in OPTIONS[scheme]:
                raise ConfigError(f"{text!r}: no option {name!r}; {scheme}: takes {', '.join(OPTIONS[scheme])}")
            if not _fits(name, value):
                raise ConfigError(f"{text!r}: {name}={value} should be {OPTIONS[scheme][name]}")
        return cls(scheme, path, options)

    @property
    def fps(self) -> float | None:
        """Frames a second that the text asks for; None: it does not."""
        return float(self.options["fps"]) if "fps" in self.options else None


def _fits(name: str, value: str) -> bool:
    if name == "loop":
        return value in ("true", "false")
    if name in ("seed", "repeat"):
        return value.isdecimal() and (name == "seed" or int(value) > 0)
    try:
        return 0 < float(value) <= 100_000
    except ValueError:
        return False


PASSWORD_ELSEWHERE = "a password does not belong here; use LINEPIPE_REDIS_PASSWORD or publish.password_file"
REDIS_OPTIONS = {"db": (r"\d{1,5}", "a whole number"), "client_name": (r"\S+", "a name without spaces")}
TLS_OPTIONS = {
    "ssl_ca_certs": (r".+", "a file"),
    "ssl_certfile": (r".+", "a file"),
    "ssl_keyfile": (r".+", "a file"),
    "ssl_cert_reqs": (r"required|optional|none", "required, optional or none"),
    "ssl_check_hostname": (r"true|false", "true or false"),
}


def redis_mistake(url: str) -> str:
    """What is wrong with ``publish.redis``, and what to write; empty: nothing."""
    if url == "embedded":
        return ""
    match = re.fullmatch(r"(rediss?|unix)://(?:(?P<auth>[^@/]*)@)?(?P<rest>[^?#]*)(?:\?(?P<query>.*))?", url)
    if match is None:
        return f"{url!r} is not a Redis URL; write embedded, redis://HOST:PORT/DB, rediss://... or unix:///PATH"
    if match["auth"] and ":" in match["auth"] and match["auth"].split(":", 1)[1]:
        return PASSWORD_ELSEWHERE
    if problem := _option_mistake(match[1], match["query"] or ""):
        return problem
    if match[1] == "unix":
        return "" if match["rest"].startswith("/") else f"{url!r}: write unix:///PATH/OF/SOCKET"
    name = r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
    host = re.fullmatch(rf"(\[[0-9a-fA-F:]+\]|{name})(?::(\d{{1,5}}))?(?:/\d*)?", match["rest"])
    if host is None or (host[2] and not 0 < int(host[2]) < 65536):
        return f"{url!r}: host, port or database is malformed; write redis://HOST:PORT/DB"
    return ""


def _option_mistake(scheme: str, query: str) -> str:
    """What is wrong with the options of a Redis URL; redis-py would say it only when it connects, or override linepipe's own."""
    known = REDIS_OPTIONS | (TLS_OPTIONS if scheme == "rediss" else {})
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "password":
            return PASSWORD_ELSEWHERE
        if name not in known:
            return f"no option {name!r}; {scheme}:// takes {', '.join(known)}"
        pattern, kind = known[name]
        if not re.fullmatch(pattern, value):
            return f"{name}={value} should be {kind}"
    return ""
