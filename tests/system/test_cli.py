"""The command line: a person's mistake gets exit code 2 and a sentence with file, line and key; never a traceback."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.system.files import STATE_FOLDERS
from tests.conftest import Server
from tests.system.line import LINEPIPE, Line

ROOT = Path(__file__).resolve().parents[2]


def linepipe(*args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*LINEPIPE, *args], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("command", ["run", "validate", "events", "status"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["deploy/line1.yaml", "--set", "infer.engine=tensorrt"], "--set infer.engine: infer.engine: there is no engine"),
        (["deploy/line1.yaml", "--set", "publish.redis=http://x"], "is not a Redis URL"),
        (["deploy/line1.yaml", "--set", "nonsense"], "write --set KEY.SUB=VALUE"),
    ],
)
def test_a_wrong_configuration_is_refused_by_every_command(command: str, options: list[str], says: str) -> None:
    done = linepipe(command, *options)

    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("cameras.top.source=folder:nowhere", "cameras.top.source: no folder nowhere"),
        ("cameras.top.source=video:nowhere.mp4", "cameras.top.source: nowhere.mp4 is not there"),
        ("cameras.top.source=video:docs", "cameras.top.source: docs is a folder"),
        ("infer.model=ilcs-new", "infer.model: no shipped model 'ilcs-new'; there is"),
        ("infer.model=nowhere/m.safetensors", "infer.model: no model file nowhere/m.safetensors"),
        ("infer.model=deploy/../README.md", "infer.model: "),
        ("publish.password_file=/nowhere", "publish.password_file: /nowhere is not a file"),
        ("state_dir=README.md/x", "README.md is a file"),
        ("cameras.top={source: 'folder:docs', when_full: drop_oldest}", "cameras.top.source: has no frame rate of its own"),
    ],
)
def test_what_is_not_there_is_said_before_anything_starts(change: str, says: str) -> None:
    for command in ("validate", "run"):
        done = linepipe(command, "deploy/line1.yaml", "--set", change)

        assert done.returncode == 2
        assert says in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--set", "infer.engine=tensorrt"], 2, "--set infer.engine: infer.engine: there is no engine"),
        (["--set", "cameras.top.source=folder:nowhere"], 2, "cameras.top.source: no folder nowhere"),
        (["--set", "infer.classes={rust: {min_score: 0.5}}"], 2, "infer.classes: ilcs-line knows no rust"),
        (["--set", "infer.classes={ok: {min_score: 0.5}}"], 2, "infer.classes: ok is no defect"),
        (["--set", "cameras.top.ignore_px=[[0, 0, 9]]"], 2, "cameras.top.ignore_px"),
        (["--set", "cameras.top.ignore_px=[[5, 5, 0, 9]]"], 2, "cameras.top.ignore_px"),
        (["--set", "cameras.top.ignore_px=[[0, 0, 900, 300]]"], 2, "nothing would be judged"),
        (["--set", "publish.redis=redis://127.0.0.1:1/0", "--connect"], 1, "Redis at redis://127.0.0.1:1/0"),
    ],
)
def test_validate_json_is_json_also_when_something_is_wrong(options: list[str], code: int, says: str) -> None:
    done = linepipe("validate", "deploy/line1.yaml", "--json", *options)

    assert done.returncode == code
    assert says in json.loads(done.stdout)["problems"][0]


@pytest.mark.parametrize("command", ["validate", "run", "doctor"])
def test_files_where_the_state_needs_folders_are_told_at_the_start(tmp_path: Path, command: str) -> None:
    for name in STATE_FOLDERS:
        (tmp_path / name).write_text("in the way")

    done = linepipe(command, "deploy/line1.yaml", "--set", f"state_dir={tmp_path}")

    assert done.returncode == (1 if command == "doctor" else 2)
    for name in STATE_FOLDERS:
        assert f"{tmp_path / name} is a file where a folder must be" in done.stdout + done.stderr


def test_validate_json_lists_no_problems_where_there_are_none() -> None:
    assert json.loads(linepipe("validate", "deploy/line1.yaml", "--json").stdout)["problems"] == []


@pytest.mark.parametrize("args", [["run"], ["run", "deploy/line1.yaml", "--for", "soon"], ["fly"], ["schema", "x"], ["node", "x"]])
def test_wrong_usage_is_exit_code_2(args: list[str]) -> None:
    assert linepipe(*args).returncode == 2


def test_an_unknown_node_names_those_there_are() -> None:
    done = linepipe("node", "gpu", "deploy/line1.yaml")

    assert done.returncode == 2
    assert "publish, inspect, capture.top" in done.stderr


@pytest.mark.parametrize("command", ["events", "status"])
def test_a_line_that_never_ran_says_so(make_line: Callable[..., Line], command: str) -> None:
    assert "has never run" in make_line().cli(command, code=1).stderr


@pytest.mark.parametrize("name", ["line1", "neu-folder"])
def test_shipped_configurations_fit_the_published_schema(name: str) -> None:
    schema = json.loads(linepipe("schema", "config").stdout)

    jsonschema.validate(yaml.safe_load((ROOT / "deploy" / f"{name}.yaml").read_text()), schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("command", [[], *([c] for c in ("run", "node", "validate", "doctor", "status", "events", "schema", "train"))])
def test_every_command_explains_itself_with_an_example(command: list[str]) -> None:
    done = linepipe(*command, "--help")

    assert done.returncode == 0
    assert "Example: linepipe " in done.stdout


def test_a_closed_pipe_is_no_error(make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path) -> None:
    make_images(tmp_path / "images", 200)
    line = make_line()
    line.run()

    script = f"{' '.join(LINEPIPE)} events {line.config} | head -n 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("path", ["<(cat deploy/line1.yaml)", "/dev/stdin <deploy/line1.yaml", "/dev/stdin < <(cat deploy/line1.yaml)"])
def test_a_configuration_may_come_from_another_program(path: str) -> None:
    script = f"{' '.join(LINEPIPE)} validate {path}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")


def test_damaged_notes_are_said_and_not_fatal(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 3)
    line = make_line()
    line.run()
    for name in ("status.json", "run.json"):
        (line.state / name).write_bytes(b"\xff\x00damaged")

    assert "status.json is damaged" in line.cli("status", code=1).stderr
    assert "run.json is damaged" in line.cli("events", "--run", "last", code=1).stderr
    for name in ("status.json", "run.json"):
        (line.state / name).unlink()
        os.mkfifo(line.state / name)
    assert "it is no ordinary file" in line.cli("status", code=1).stderr
    assert "it is no ordinary file" in line.cli("events", "--run", "last", code=1).stderr
    (line.state / "run.json").unlink()
    (line.state / "run.json").mkdir()
    assert "run.json is damaged" in line.cli("events", "--run", "last", code=1).stderr
    (line.state / "run.json").rmdir()

    assert line.run()["events"]["defect"] == 3
    assert len(line.defects()) == 3


def test_a_spool_that_is_no_database_is_set_aside_and_said(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    make_images(tmp_path / "images", 3)
    line = make_line()
    (line.state / "spool").mkdir()
    (line.state / "spool" / "events.db").write_bytes(b"damaged" * 1000)

    summary = line.run()

    assert summary["spool"] == {"backlog": 0, "delivered": True}
    assert [e["name"] for e in line.events("--type", "alarm")] == ["spool_damaged"]
    assert [path.read_bytes() for path in (line.state / "spool").glob("events.db.damaged-*")] == [b"damaged" * 1000]


@pytest.mark.parametrize(("content", "says"), [(b"", "is empty"), (b"\xff\xfe\x80", "is not text")])
def test_a_password_file_that_is_none_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)

    done = linepipe("validate", "deploy/line1.yaml", "--set", f"publish.password_file={path}")

    assert done.returncode == 2
    assert says in done.stderr


def test_a_redis_that_wants_a_password_says_how_to_give_it(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.kill()
    server.start("--requirepass", "secret")
    command = ("validate", "deploy/line1.yaml", "--set", f"publish.redis={server.url}", "--connect")

    assert "set LINEPIPE_REDIS_PASSWORD" in linepipe(*command).stderr
    monkeypatch.setenv("LINEPIPE_REDIS_PASSWORD", "secret")
    assert linepipe(*command).returncode == 0


@pytest.mark.parametrize("command", ["run", "validate", "events", "status"])
def test_a_file_name_that_the_locale_cannot_spell_is_named(command: str, tmp_path: Path) -> None:
    (config := tmp_path / "line.yaml").write_text(
        (ROOT / "deploy/line1.yaml").read_text().replace("state_dir: ", "state_dir: /tmp/\u7dda/")
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*LINEPIPE, command, str(config)], capture_output=True, text=True, timeout=60, env=environment)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot be a file name in this locale" in done.stderr
