"""``linepipe events``"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli.options import read_config, with_config
from pipeline.client import Events, RedisUnreachableError
from pipeline.config import Config
from pipeline.core.errors import LinepipeError
from pipeline.core.events import TYPES
from pipeline.redis.server import EmbeddedServer, running_url
from pipeline.system.files import check_owner, keep_private, read_plain
from pipeline.system.folder_lock import is_running
from pipeline.system.stdio import complain
from pipeline.system.user_path import is_folder, look

RETRY_S = 1.0

WATCH_S = 0.2


@click.command()
@with_config
@click.option("--follow", "-f", is_flag=True, help="Then print events as they come, until Ctrl-C.")
@click.option("--run", "which", type=click.Choice(["all", "last"]), default="all", help="Only events of the newest run.")
@click.option("--type", "kinds", type=click.Choice(TYPES), multiple=True, help="Only events of this type; may be given again.")
def events(config: Path, overrides: tuple[str, ...], follow: bool, which: str, kinds: tuple[str, ...]) -> None:
    """Print a line's events as JSON lines, oldest first, and exit.

    With `redis: embedded` it works while the line runs and after it has ended; --follow waits for a line that does not run,
    and for a Redis that is away. Entries of the stream that are no events are left out and counted on stderr.

    Example: linepipe events deploy/line1.yaml --run last --type defect
    """
    settings = read_config(config, overrides)
    check_owner(settings.state)
    first = _first_id(settings) if which == "last" else "-"
    with _open(settings) as stream:
        last = stream.last_id()
        for event in stream.read(first, last):
            _print(event, kinds)
        _say_odd(stream, 0)
    if follow:
        _follow(settings, last, kinds)


def _follow(settings: Config, position: str, kinds: tuple[str, ...]) -> None:
    """Print events after stream id ``position`` as they come, for ever; waits for a Redis that is away."""
    away = False
    while True:
        _wait_for_line(settings)
        odd = 0
        try:
            with _open(settings) as stream:
                for found in stream.follow(position):
                    away = False
                    position = stream.position or position
                    odd = _say_odd(stream, odd)
                    if found is not None:
                        _print(found, kinds)
        except RedisUnreachableError as exc:
            if not away:
                complain(f"{exc}; waiting for it")
            away = True
            time.sleep(RETRY_S)


def _wait_for_line(settings: Config) -> None:
    """Wait until the line runs, if its server is the embedded one."""
    while settings.publish.redis == "embedded" and not (is_running(settings.state) and running_url(settings.state)):
        time.sleep(RETRY_S)


def _say_odd(stream: Events, said: int) -> int:
    if stream.odd > said:
        complain(f"{stream.odd - said} entries of {stream.name} are no events; the last: {stream.last_odd}")
    return stream.odd


def _print(event: dict[str, object], kinds: tuple[str, ...]) -> None:
    if not kinds or event["type"] in kinds:
        click.echo(json.dumps(event))


def _first_id(settings: Config) -> str:
    path = settings.state / "run.json"
    if look(path) is None:
        raise LinepipeError(f"no run is noted under {settings.state}; run the line first, or leave out --run last")
    try:
        first = json.loads(read_plain(path))["first_id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise LinepipeError(f"{path} is damaged ({exc}); leave out --run last") from exc
    if first is None:
        raise LinepipeError("the last run published nothing: its publish node never started")
    return str(first)


@contextlib.contextmanager
def _open(settings: Config) -> Iterator[Events]:
    """The line's events; if the line does not run, its embedded server is started, and ended when the context is left."""
    if settings.publish.redis != "embedded" or is_running(settings.state):
        if settings.publish.redis == "embedded" and running_url(settings.state) is None:
            raise LinepipeError(f"line {settings.line} is starting; try again in a moment")
        with Events.of_line(settings) as events:
            yield events
        return
    if not is_folder(settings.state / "redis"):
        raise LinepipeError(f"line {settings.line} has never run with state_dir {settings.state}; start it with `linepipe run`")
    keep_private()
    server, done = EmbeddedServer(settings), threading.Event()
    server.start()
    watch = threading.Thread(target=_give_way, args=(server, settings.state, done), daemon=True)
    watch.start()
    try:
        with Events.of_line(settings) as events:
            yield events
    except RedisUnreachableError as exc:
        if not is_running(settings.state):
            raise
        raise LinepipeError(f"line {settings.line} has started meanwhile; call this again") from exc
    finally:
        done.set()
        watch.join()
        server.stop()


def _give_way(server: EmbeddedServer, state: Path, done: threading.Event) -> None:
    """End the server as soon as the line starts, which needs the server's data."""
    while not done.wait(WATCH_S):
        if is_running(state):
            server.stop()
            return
