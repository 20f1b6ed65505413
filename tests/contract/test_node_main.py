"""What a node's process says when it ends."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zmq

from pipeline.runtime.node import NodeContext
from pipeline.transport.sockets import Dealer, Router

RUN = """
import sys
import tempfile
from pathlib import Path
from pipeline.config import load
from pipeline.runtime.node import run_node
from pipeline.config.topology import Process
entry = "tests.contract.test_node_main:" + sys.argv[2]
sys.exit(run_node(load(Path(sys.argv[1])), Process(name="inspect", entry=entry), sockets=Path(sys.argv[3])))
"""


def takes_all_descriptors(node: NodeContext) -> None:
    while True:
        os.open(os.devnull, os.O_RDONLY)


def connects_without_descriptors(node: NodeContext) -> None:
    with contextlib.suppress(OSError):
        takes_all_descriptors(node)
    Dealer(node.endpoints.publish)


def listens_without_descriptors(node: NodeContext) -> None:
    """There are some for a socket, and then none for its address."""
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    with contextlib.suppress(OSError):
        takes_all_descriptors(node)
    for fd in free:
        os.close(fd)
    while True:
        context = zmq.Context()
        Router(node.endpoints.publish, context=context).close()
        context.term()
        os.open(os.devnull, os.O_RDONLY)


def takes_all_memory(node: NodeContext) -> None:
    bytearray(1 << 60)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("takes_all_descriptors", "no file descriptors are left: raise the limit (ulimit -n)"),
        ("connects_without_descriptors", "no file descriptors are left"),
        ("listens_without_descriptors", "no file descriptors are left"),
        ("takes_all_memory", "not enough memory"),
    ],
)
def test_a_machine_that_has_too_little_is_told_and_is_no_error_of_linepipe(entry: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "line.yaml"
    config.write_text(f"{{line: l, cameras: {{top: {{source: 'folder:x'}}}}, infer: {{model: ilcs-neu}}, state_dir: {tmp_path}/state}}")
    with tempfile.TemporaryDirectory() as sockets:  # a short path: that of an address is limited
        command = [sys.executable, "-c", RUN, str(config), entry, sockets]

        # Measuring coverage would want a descriptor, too.
        done = subprocess.run(
            ["sh", "-c", 'ulimit -n 128; unset COVERAGE_PROCESS_CONFIG; exec "$@"', "sh", *command],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
