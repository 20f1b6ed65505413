"""``linepipe validate``"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import read_config, with_config
from pipeline.config.topology import frame_rate, processes
from pipeline.core.errors import ConfigError, LinepipeError
from pipeline.diagnostics.check import check, check_redis, check_sinks


@click.command()
@with_config
@click.option("--connect", is_flag=True, help="Also ask the configured Redis whether it answers.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON; what is wrong is in `problems`.")
def validate(config: Path, overrides: tuple[str, ...], connect: bool, as_json: bool) -> None:
    """Check a configuration without running it: keys, types, folders, model.

    Example: linepipe validate deploy/line1.yaml --connect
    """
    try:
        found = _validate(config, overrides, connect=connect)
    except LinepipeError as exc:
        if not as_json:
            raise
        click.echo(json.dumps({"problems": str(exc).splitlines()}))
        sys.exit(exc.exit_code)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{config}: fine. Line {found['line']}: {', '.join(found['nodes'])}")


def _validate(config: Path, overrides: tuple[str, ...], *, connect: bool) -> dict[str, Any]:
    """The parts of the line, for the report. Raises ``LinepipeError`` with a line of text for each problem."""
    settings = read_config(config, overrides)
    if problems := check(settings) + check_sinks(settings):
        raise ConfigError("\n".join(f"{config}: {p}" for p in problems))
    if connect:
        check_redis(settings)
    return {
        "line": settings.line,
        "nodes": [p.name for p in processes(settings)],
        "frames_per_s": {name: frame_rate(camera) for name, camera in settings.cameras.items()},
        "stream": settings.stream,
        "problems": [],
    }
