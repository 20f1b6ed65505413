"""The command ``linepipe``: a table of commands, each loaded only when it is called, and the exit codes."""

import errno
import importlib
import io
import os
import select
import sys
from typing import Any

import click

from pipeline.errors import LinepipeError

COMMANDS = {
    "run": ("pipeline.commands.run:run", "Run a line until its sources end, the time is up, or Ctrl-C."),
    "node": ("pipeline.commands.node:node", "Run one node of a line in this process."),
    "validate": ("pipeline.commands.validate:validate", "Check a configuration without running it."),
    "doctor": ("pipeline.commands.doctor:doctor", "Look whether this machine and a line on it are fit to run."),
    "status": ("pipeline.commands.status:status", "Show the nodes, rates, latencies and ledger of a line."),
    "events": ("pipeline.commands.events:events", "Print a line's events as JSON lines."),
    "schema": ("pipeline.commands.schema:schema", "Print the JSON Schema of the configuration or the events."),
    "export": ("nodes.infer.commands.export:export", "Write a model for another program, and prove it."),
    "train": ("ilcs_model.commands.train:train", "Train a model from labelled images."),
    "eval": ("nodes.infer.commands.eval:evaluate", "Say what a model is worth on labelled images, in a line's engine."),
    "explain": ("nodes.infer.commands.explain:explain", "Show where in images a model sees what it names."),
}


class _Lazy(click.Group):
    """Commands by entry point; the short help stands in the table, so that listing them loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has enough, as in `linepipe events ... | head`
            if _output_error() is None:
                raise
            return 0

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
    """Entry point of the console script. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration, 130 interrupted."""
    _prepare_output()
    try:
        code: Any = linepipe.main(args, standalone_mode=False)
    except LinepipeError as exc:
        code = exc.exit_code
        _complain(str(exc))
    except click.ClickException as exc:
        code = exc.exit_code
        exc.show(text := io.StringIO())
        _to_stderr(text.getvalue())
    except (KeyboardInterrupt, click.Abort):
        code = 130
        _complain("interrupted")
    except OSError:
        if _output_error() is None:
            raise
        code = 0
    sys.exit(_finish_output(code if isinstance(code, int) else 0))


def _prepare_output() -> None:
    """Have descriptors 0 to 2 open, so that no file of ours takes their place, and print whatever the encoding cannot."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _output_error() -> OSError | None:
    """Why stdout cannot be written: what could not stays in its buffer."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as exc:
        return exc
    return None


def _finish_output(code: int) -> int:
    """Flush stdout and stderr; the exit code with what comes of it. A reader who has enough, as ``head``, is no error."""
    error = _output_error()
    if error is not None and error.errno != errno.EPIPE:
        _complain(f"stdout cannot be written: {error.strerror}")
        code = code or 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # said above, or there is nowhere to say it; or the interpreter tries again and ends with code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _complain(text: str) -> None:
    _to_stderr(f"linepipe: {text}\n")


def _to_stderr(text: str) -> None:
    """Where stderr is closed, full or hangs for a second, the exit code alone must do."""
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    try:
        if ready.poll(1000):
            os.write(2, text.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))
    except OSError:
        return
