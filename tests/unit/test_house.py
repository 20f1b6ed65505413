"""The house rules that a machine can check: doors, sizes, what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [p for folder in ("pipeline", "nodes", "ilcs_model") for p in sorted((ROOT / folder).rglob("*.py"))]
DOORS = {
    "zmq": {"pipeline/transport/sockets.py"},
    "redis": {"pipeline/client.py", "nodes/publish/sinks/redis/sink.py"},
    "av": {"nodes/capture/sources/video.py"},
    "sqlite3": {"nodes/publish/spool/database.py"},
    "openvino": {"ilcs_model/no_telemetry.py"},
    "onnxruntime": {"ilcs_model/no_telemetry.py"},
    "nvidia": {"nodes/preprocess/dali.py", "ilcs_model/data/dali_loader.py"},
    "simplejpeg": {"nodes/preprocess/opencv.py", "ilcs_model/data/images.py"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of every package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("library", DOORS)
def test_a_foreign_library_has_its_doors(library: str) -> None:
    assert {str(p.relative_to(ROOT)) for p in SOURCES if library in imports(p)} == DOORS[library]


def caught(path: Path) -> list[set[str]]:
    """Names of the errors that each ``except`` of a file names."""
    handlers = [n.type for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ExceptHandler) and n.type is not None]
    return [
        {part.id if isinstance(part, ast.Name) else part.attr for part in ast.walk(h) if isinstance(part, ast.Name | ast.Attribute)}
        for h in handlers
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_who_expects_what_cannot_be_decoded_expects_bad_text_too(path: Path) -> None:
    """msgspec raises ``UnicodeDecodeError``, a ``ValueError``, for text that is no UTF-8."""
    for names in caught(path):
        assert not names & {"MsgspecError", "DecodeError"} or "ValueError" in names


def test_only_engines_and_their_commands_know_the_model() -> None:
    knowing = {p.relative_to(ROOT) for p in SOURCES if "ilcs_model" in imports(p)}

    assert {str(p.parent) for p in knowing if p.parts[0] != "ilcs_model"} == {"nodes/infer/engines", "nodes/offline"}


def test_rooms_and_modules_are_small() -> None:
    modules = [p for p in SOURCES if p.name not in ("__init__.py", "__main__.py")]
    rooms = {p.parent for p in modules}

    assert len(modules) <= 150
    assert {str(p.relative_to(ROOT)) for p in modules if len(p.read_text().splitlines()) > 300} == set()
    assert {str(r.relative_to(ROOT)) for r in rooms if len(list(r.glob("*.py"))) - 1 > 12} == set()


@pytest.mark.parametrize("room", sorted({p.parent for p in SOURCES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_says_what_it_is_for(room: Path) -> None:
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text()))


@pytest.mark.parametrize("path", SOURCES + sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_pipeline_needs_no_torch() -> None:
    """Every module of pipeline, and the node that captures, import neither torch nor OpenVINO nor OpenCV."""
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES if p.is_relative_to(ROOT / "pipeline")]
    wanted = [m for m in modules if not m.endswith(("__main__", "__init__"))]
    program = f"import sys, {', '.join(wanted)}; print({{'torch', 'openvino', 'cv2', 'nvidia'}} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_publish_needs_no_numpy() -> None:
    """The process that publishes handles no pixels: numpy would cost it 90 ms at each start, and 8 MiB."""
    program = "import sys, pipeline.runtime.node, nodes.publish.node; print('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_help_loads_no_command() -> None:
    listing = "print(sorted(m for m in sys.modules if 'pipeline' in m))"
    program = f"import sys; from pipeline.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: {listing}"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    rooms = ["pipeline", "pipeline.cli", "pipeline.core", "pipeline.system"]
    assert str(sorted([*rooms, "pipeline.cli.main", "pipeline.core.errors", "pipeline.system.stdio"])) in done.stdout


def test_importing_a_node_says_nothing_and_starts_nothing() -> None:
    modules = "nodes.capture.node, nodes.publish.node, nodes.preprocess.node, nodes.infer.node"
    program = f"import threading, {modules}; print(threading.active_count())"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == ("1", "")
