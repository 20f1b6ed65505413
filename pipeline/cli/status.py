"""``linepipe status``"""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline.cli.options import read_config, with_config
from pipeline.config import Config
from pipeline.core.errors import LinepipeError
from pipeline.core.status import LineStatus
from pipeline.system.files import check_owner, read_plain
from pipeline.system.folder_lock import is_running

REFRESH_S = 0.5


@click.command()
@with_config
@click.option("--follow", "-f", is_flag=True, help="Keep showing it until Ctrl-C or the line ends.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(config: Path, overrides: tuple[str, ...], follow: bool, as_json: bool) -> None:
    """Show the nodes, rates, latencies and ledger of a line that runs, or how its last run ended.

    Example: linepipe status deploy/line1.yaml --follow
    """
    settings = read_config(config, overrides)
    if as_json:
        while True:
            found = _read(settings)
            click.echo(msgspec.json.encode(found))
            if not follow or not found.running:
                return
            time.sleep(REFRESH_S)
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not follow:
        with console.capture() as capture:
            console.print(_table(settings)[0])
        click.echo(capture.get(), nl=False)
        return
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            table, running = _table(settings)
            live.update(table)
            if not running:
                return
            time.sleep(REFRESH_S)


def _table(settings: Config) -> tuple[Any, bool | None]:
    from pipeline.console.console import status_table

    found = _read(settings)
    return status_table(found), found.running


def _read(settings: Config) -> LineStatus:
    check_owner(settings.state)
    path = settings.state / "status.json"
    try:
        found = msgspec.json.decode(read_plain(path), type=LineStatus)
    except FileNotFoundError as exc:
        raise LinepipeError(f"line {settings.line} has never run with state_dir {settings.state}; start it with `linepipe run`") from exc
    except OSError as exc:
        raise LinepipeError(f"{path} cannot be read: {exc.strerror}") from exc
    except msgspec.ValidationError as exc:
        raise LinepipeError(f"{path} is not what this version writes ({exc}); it is written again when the line runs") from exc
    except (ValueError, RecursionError) as exc:
        raise LinepipeError(f"{path} is damaged ({exc}); it is written again when the line runs") from exc
    found.running = is_running(settings.state)
    return found
