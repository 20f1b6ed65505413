"""``linepipe events``"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.client import Events
from pipeline.commands.options import read_config, with_config
from pipeline.config import Config
from pipeline.embedded import EmbeddedServer, running_url
from pipeline.errors import LinepipeError
from pipeline.events import TYPES
from pipeline.secret import redis_password
from pipeline.state_lock import is_running


@click.command()
@with_config
@click.option("--follow", "-f", is_flag=True, help="Then print events as they come, until Ctrl-C.")
@click.option("--run", "which", type=click.Choice(["all", "last"]), default="all", help="Only events of the newest run.")
@click.option("--type", "kinds", type=click.Choice(TYPES), multiple=True, help="Only events of this type; may be given again.")
def events(config: Path, overrides: tuple[str, ...], follow: bool, which: str, kinds: tuple[str, ...]) -> None:
    """Print a line's events as JSON lines, oldest first, and exit.

    With `redis: embedded` it works while the line runs and after it has ended.

    Example: linepipe events deploy/line1.yaml --run last --type defect
    """
    settings = read_config(config, overrides)
    first = _first_id(settings) if which == "last" else "-"
    with _url(settings) as url, Events(url, settings.stream, redis_password(settings)) as stream:
        try:
            _dump(stream, first, kinds, follow=follow)
        except BrokenPipeError:  # the reader has enough, as in `linepipe events ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dump(stream: Events, first: str, kinds: tuple[str, ...], *, follow: bool) -> None:
    last = stream.last_id()
    for event in stream.read(first, last):
        _print(event, kinds)
    if follow:
        for found in stream.follow(last):
            if found is not None:
                _print(found, kinds)


def _print(event: dict[str, object], kinds: tuple[str, ...]) -> None:
    if not kinds or event["type"] in kinds:
        click.echo(json.dumps(event))


def _first_id(settings: Config) -> str:
    path = settings.state / "run.json"
    if not path.exists():
        raise LinepipeError(f"no run is noted under {settings.state}; run the line first, or leave out --run last")
    try:
        first = json.loads(path.read_bytes())["first_id"]
    except (ValueError, KeyError, TypeError) as exc:
        raise LinepipeError(f"{path} is damaged ({exc}); leave out --run last") from exc
    if first is None:
        raise LinepipeError("the last run published nothing: its publish node never started")
    return str(first)


@contextlib.contextmanager
def _url(settings: Config) -> Iterator[str]:
    """URL of the line's Redis; an embedded server whose line has ended is started for as long as this takes."""
    if settings.publish.redis != "embedded":
        yield settings.publish.redis
        return
    if is_running(settings.state):
        url = running_url(settings.state)
        if url is None:
            raise LinepipeError(f"line {settings.line} is starting; try again in a moment")
        yield url
        return
    if not (settings.state / "redis").is_dir():
        raise LinepipeError(f"line {settings.line} has never run with state_dir {settings.state}; start it with `linepipe run`")
    server = EmbeddedServer(settings.state)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
