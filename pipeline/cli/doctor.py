"""``linepipe doctor``"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from pipeline.cli.options import OVERRIDES, read_config
from pipeline.core.errors import ConfigError
from pipeline.diagnostics.doctor import examine
from pipeline.diagnostics.finding import Finding, failed

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@OVERRIDES
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects: name, status, found, advice.")
def doctor(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check whether this machine, and with CONFIG this line on it, is fit to run. Exits 1 when something failed.

    Example: linepipe doctor deploy/line1.yaml
    """
    if overrides and config is None:
        raise click.UsageError("--set needs a CONFIG whose keys it overrides")
    found = []
    for finding in _findings(config, overrides):
        found.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=1))
    sys.exit(any(f.status == "failed" for f in found))


def _findings(config: Path | None, overrides: tuple[str, ...]) -> Iterator[Finding]:
    """The findings. A configuration that cannot be read is one of them, and the machine is checked all the same."""
    settings = None
    try:
        settings = read_config(config, overrides) if config is not None else None
    except ConfigError as exc:
        yield failed("configuration", str(exc), "correct it; what concerns this line is left out below")
    yield from examine(settings)


def _print(finding: Finding) -> None:
    status = click.style(f"{finding.status:<8}", fg=COLOURS[finding.status])
    advice = f" -> {finding.advice}" if finding.advice else ""
    click.echo(f"{status} {finding.name:<18} {' '.join((finding.found + advice).split())}")
