"""``linepipe node``"""

from pathlib import Path

import click

from pipeline.cli.options import OVERRIDES, read_config
from pipeline.config.model_file import digest_of
from pipeline.config.topology import find_process
from pipeline.core.errors import NodeError, told_as
from pipeline.runtime.node import run_node


@click.command()
@click.argument("name")
@click.argument("config", type=click.Path(path_type=Path))
@OVERRIDES
@click.option("--ring-fd", type=int, hidden=True, help="Descriptor of the camera's ring, inherited from the supervisor.")
@click.option("--sockets", type=click.Path(path_type=Path), hidden=True, help="Folder of the sockets of the run it belongs to.")
@click.option("--line", hidden=True, help="Digest of the configuration file with which the run began.")
@click.option("--model", hidden=True, help="Digest of the model file with which the run began.")
@click.option("--frames", type=click.IntRange(1), help="Stop after this many frames (capture nodes).")
@click.option("--drain", is_flag=True, hidden=True, help="Finish what an earlier life left, take nothing new.")
@click.pass_context
def node(
    ctx: click.Context,
    name: str,
    config: Path,
    overrides: tuple[str, ...],
    ring_fd: int | None,
    sockets: Path | None,
    line: str | None,
    model: str | None,
    frames: int | None,
    drain: bool,
) -> None:
    """Run one node of a line in this process, as `linepipe run` does for each.

    NAME is publish, capture.CAMERA, or a name from `placement`.

    Example: linepipe node inspect deploy/line1.yaml
    """
    if line is not None:
        check_line(config, line)
    settings = read_config(config, overrides)
    process = find_process(settings, name)
    ctx.exit(run_node(settings, process, sockets=sockets, ring_fd=ring_fd, frames=frames, model=model, drain=drain))


def check_line(path: Path, began_with: str) -> None:
    """Check that the line's own copy of its configuration at ``path`` still has the digest with which the run began.

    Raises ``NodeError`` if it has not, or cannot be read: the line writes the copy again, and the node is started again.
    """
    with told_as(NodeError, f"the line's own copy of its configuration, {path}, cannot be read"), path.open("rb") as file:
        found = digest_of(file)
    if found != began_with:
        raise NodeError(f"{path} is not the configuration with which the line began")
