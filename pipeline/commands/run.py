"""``linepipe run``"""

from pathlib import Path
from typing import Any

import click

from pipeline.check import check
from pipeline.commands.options import Duration, read_config, with_config
from pipeline.console import Console
from pipeline.errors import ConfigError
from pipeline.supervisor import Supervisor, write_summary


@click.command()
@with_config
@click.option("--for", "for_s", type=Duration(), help="Stop this long after the first frame: 20s, 5m, 2h.")
@click.option("--frames", type=click.IntRange(1), help="Stop after this many frames of each camera.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write the summary to this JSON file.")
def run(config: Path, overrides: tuple[str, ...], for_s: float | None, frames: int | None, summary: Path | None) -> None:
    """Run a line until its sources end, the time is up, or Ctrl-C.

    The first Ctrl-C drains (every acquired frame is finished), prints the ledger and exits 0; the second stops at once.

    Example: linepipe run deploy/line1.yaml --for 20s --summary summary.json
    """
    settings = read_config(config, overrides)
    if problems := check(settings):
        raise ConfigError("\n".join(f"{config}: {p}" for p in problems))
    if summary is not None:
        try:
            summary.touch()  # now, not at the end of a long run
        except OSError as exc:
            raise ConfigError(f"--summary {summary}: cannot be written: {exc.strerror}") from exc
    console = Console(settings)
    found: dict[str, Any] = Supervisor(settings, for_s=for_s, frames=frames, say=console.say).run(console.tick)
    console.close(found)
    if summary is not None:
        write_summary(summary, found)
