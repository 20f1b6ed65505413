"""What several commands take: the configuration file and overrides; durations."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.config import Config, load

CONFIG = click.argument("config", type=click.Path(path_type=Path))
OVERRIDES = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the configuration.")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument CONFIG and the option ``--set`` to a command."""
    return CONFIG(OVERRIDES(command))


def read_config(path: Path, overrides: tuple[str, ...]) -> Config:
    """Load the configuration that a command was given, with its ``--set`` overrides. Raises ``ConfigError`` as ``load`` does."""
    return load(path, overrides)


class Duration(click.ParamType[float]):
    """Type of an option: ``20s``, ``1.5m``, ``2h``, ``500ms``, or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The duration in seconds. Raises ``click.BadParameter`` if the text is none, or is 0."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 20s, 5m or 2h", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]
