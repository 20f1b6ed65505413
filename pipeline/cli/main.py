"""The command ``linepipe``: a table of commands, each loaded only when it is called, and the exit codes."""

import io
import pkgutil
import sys
from typing import Any

import click

from pipeline.core.errors import LinepipeError
from pipeline.system.stdio import StdoutError, complain, finish_output, prepare_output, to_stderr

COMMANDS = {
    "run": ("pipeline.cli.run:run", "Run a line until its sources end, the time is up, or Ctrl-C."),
    "node": ("pipeline.cli.node:node", "Run one node of a line in this process."),
    "validate": ("pipeline.cli.validate:validate", "Check a configuration without running it."),
    "doctor": ("pipeline.cli.doctor:doctor", "Check whether this machine and a line on it are fit to run."),
    "status": ("pipeline.cli.status:status", "Show the nodes, rates, latencies and ledger of a line."),
    "events": ("pipeline.cli.events:events", "Print a line's events as JSON lines."),
    "schema": ("pipeline.cli.schema:schema", "Print the JSON Schema of the configuration, events, status or summary."),
    "export": ("nodes.offline.export:export", "Write a model for another program, and prove it."),
    "train": ("ilcs_model.commands.train:train", "Train a model from labelled images."),
    "eval": ("nodes.offline.eval:evaluate", "Measure how well a model judges labelled images, in a line's engine."),
    "explain": ("nodes.offline.explain:explain", "Show where in images a model sees what it names."),
}


class _Lazy(click.Group):
    """Commands by entry point; their short help is in the table, so that listing them loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(COMMANDS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="linepipe")
def linepipe() -> None:
    """linepipe inspects a production line while it runs.

    Example: linepipe run deploy/line1.yaml --for 20s
    """


def main(args: list[str] | None = None) -> None:
    """Entry point of the console script; ``args`` are its arguments, None for those of the process. Ends with ``SystemExit``.

    Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration, 130 interrupted.
    """
    prepare_output()
    try:
        code: Any = linepipe.main(args, standalone_mode=False)
    except LinepipeError as exc:
        code = exc.exit_code
        complain(str(exc))
    except click.ClickException as exc:
        code = exc.exit_code
        exc.show(text := io.StringIO())
        to_stderr(text.getvalue())
    except UnicodeEncodeError as exc:  # of a file name: what is printed never raises it
        code = 2
        from pipeline.system.user_path import cannot_be_named

        complain(f"{exc.object!a} {cannot_be_named(exc.encoding)}")
    except (KeyboardInterrupt, click.Abort):
        code = 130
        complain("interrupted")
    except SystemExit as exc:
        code = exc.code
    except StdoutError:
        code = 0
    sys.exit(finish_output(code if isinstance(code, int) else 0))
