"""``linepipe run``"""

import os
from pathlib import Path

import click

from pipeline.cli.options import Duration, read_config, with_config
from pipeline.config.urls import sink_file
from pipeline.console.console import Console
from pipeline.core.errors import ConfigError, LinepipeError
from pipeline.diagnostics.check import check
from pipeline.runtime.run_line import LineRun


@click.command()
@with_config
@click.option("--for", "for_s", type=Duration(), help="Stop this long after the first frame: 20s, 5m, 2h.")
@click.option("--frames", type=click.IntRange(1), help="Stop after this many frames of each camera.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write the summary to this JSON file.")
def run(config: Path, overrides: tuple[str, ...], for_s: float | None, frames: int | None, summary: Path | None) -> None:
    """Run a line until its sources end, the time is up, or Ctrl-C.

    The first Ctrl-C, SIGTERM or SIGHUP drains (every acquired frame is finished), writes the summary and exits 0; a second
    Ctrl-C or SIGTERM stops at once. The summary is always in state_dir/summary.json too. A run that ends by itself and could
    not send its events to Redis and its other sinks exits 1.

    Example: linepipe run deploy/line1.yaml --for 20s --summary summary.json
    """
    settings = read_config(config, overrides)
    if problems := check(settings):
        raise ConfigError("\n".join(f"{config}: {p}" for p in problems))
    for name, text in settings.publish.sinks.items():
        if summary is not None and sink_file(text) == os.path.realpath(summary):
            raise ConfigError(f"--summary {summary} is the file of the sink {name}; choose another")
    with Console(settings) as console:
        line = LineRun(settings, for_s=for_s, frames=frames, say=console.say, summary_path=summary)
        try:
            found = line.run(console.tick)
        finally:
            console.ledger(line.summary)
    if found.error is not None:
        raise LinepipeError(found.error)
