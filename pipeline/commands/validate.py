"""``linepipe validate``"""

import json
from pathlib import Path

import click

from pipeline.check import check, check_redis
from pipeline.commands.options import read_config, with_config
from pipeline.errors import ConfigError
from pipeline.topology import frame_rate, processes


@click.command()
@with_config
@click.option("--connect", is_flag=True, help="Also ask the configured Redis whether it answers.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def validate(config: Path, overrides: tuple[str, ...], connect: bool, as_json: bool) -> None:
    """Check a configuration without running it: keys, types, folders, model.

    Example: linepipe validate deploy/line1.yaml --connect
    """
    settings = read_config(config, overrides)
    if problems := check(settings):
        raise ConfigError("\n".join(f"{config}: {p}" for p in problems))
    if connect:
        check_redis(settings)
    found = {
        "line": settings.line,
        "nodes": [p.name for p in processes(settings)],
        "frames_per_s": {name: frame_rate(camera) for name, camera in settings.cameras.items()},
        "stream": settings.stream,
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{config}: fine. Line {settings.line}: {', '.join(p.name for p in processes(settings))}")
