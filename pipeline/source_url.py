"""A camera's ``source`` text, taken apart. Who offers which scheme is ``nodes.capture``'s business."""

from typing import Self
from urllib.parse import parse_qsl

import msgspec

from pipeline.errors import ConfigError

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
