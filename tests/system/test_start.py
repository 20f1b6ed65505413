"""What cannot be used is refused at the start in a sentence each, and by every command alike: no traceback, no endless tries."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.config import load
from pipeline.diagnostics.doctor import examine
from pipeline.system.files import STATE_FOLDERS
from tests.system.line import LINEPIPE
from tests.system.other_user import become, command

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ["validate", "run", "doctor"]
LONG = "x" * 300


def linepipe(*args: str, before: str = "") -> str:
    """What a command says that must refuse; ``before`` runs first, in the same shell."""
    script = f'{before}\nexec "$@"'
    done = subprocess.run(["bash", "-c", script, "bash", *LINEPIPE, *args], capture_output=True, timeout=110, cwd=ROOT)
    said = (done.stdout + done.stderr).decode(errors="backslashreplace")
    assert "Traceback" not in said and "the check broke" not in said
    assert done.returncode == (1 if args[0] == "doctor" else 2), said
    return said


def config(path: Path, sources: list[str], model: str, state: Path) -> Path:
    cameras = {f"c{k}": {"source": source, "when_full": "block"} for k, source in enumerate(sources)}
    path.write_text(yaml.safe_dump({"line": "l", "cameras": cameras, "infer": {"model": model}, "state_dir": str(state)}))
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_names_that_lead_nowhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    sources = [f"folder:{tmp_path}/{LONG}", f"video:{tmp_path}/{LONG}", f"folder:{tmp_path}/a", f"video:{'abc/' * 1200}"]
    model = f"{tmp_path}/{LONG}.safetensors"

    said = linepipe(name, str(config(tmp_path / "line.yaml", sources, model, tmp_path / "a" / "state")))

    for k, why in enumerate(("File name too long; choose a shorter one",) * 2 + ("Too many levels of symbolic links",)):
        assert f"cameras.c{k}.source: {sources[k].partition(':')[2]} cannot be looked at: {why}" in said
    assert "cameras.c3.source: abc/abc" in said
    assert f"infer.model: {model} cannot be looked at" in said
    assert f"state_dir: {tmp_path}/a/state cannot be looked at" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_links_that_lead_nowhere_are_refused_where_the_state_needs_folders(tmp_path: Path, name: str) -> None:
    for folder in STATE_FOLDERS:
        (tmp_path / folder).symlink_to("/nowhere/folder")

    said = linepipe(name, "deploy/line1.yaml", "--set", f"state_dir={tmp_path}")

    for folder in STATE_FOLDERS:
        assert f"state_dir: {tmp_path / folder} is a link that leads nowhere; make the folder" in said
    assert f"{tmp_path}/spool is a link" in linepipe(name, "deploy/line1.yaml", "--set", f"state_dir={tmp_path}/spool/x")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (r'state_dir="/tmp/a\0b"', r"state_dir: '/tmp/a\x00b' holds a NUL character"),
        ("state_dir=/tmp/\udcffst", "is not UTF-8; give the folder or file a name that is"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(name: str, change: str, says: str) -> None:
    assert says in linepipe(name, "deploy/line1.yaml", "--set", change)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, name: str) -> None:
    gone = f"export PYTHONPATH={ROOT}; mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone"
    (file := tmp_path / "line.yaml").write_text((ROOT / "deploy/line1.yaml").read_text())

    assert "which is gone; cd to one that is there" in linepipe(name, str(file), before=gone)
    options = ("--set", f"state_dir={tmp_path}/state", "--set", "cameras.top.source=folder:nope")
    assert "no folder nope (relative paths count from the working directory, which is gone)" in linepipe(
        name, str(file), *options, before=gone
    )


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("mount", "why"), [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")])
def test_a_tmp_that_cannot_be_written_is_said(name: str, mount: str, why: str) -> None:
    """In a mount namespace of its own."""
    mounted = f"mount -t tmpfs -o {mount} tmpfs /tmp"
    if subprocess.run(["unshare", "-m", "bash", "-c", mounted], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount: a /tmp of its own")
    state = tempfile.mkdtemp(dir="/dev/shm")
    inside = f'if [ -z $INSIDE ]; then export INSIDE=1; exec unshare -m bash -c \'{mounted} && exec "$@"\' bash "$@"; fi'
    try:
        said = linepipe(name, "deploy/line1.yaml", "--set", f"state_dir={state}", before=inside)
    finally:
        shutil.rmtree(state)

    assert (
        f"/tmp/linepipe-{os.getuid()}, where the line's sockets must be, cannot be created: {why}; have a /tmp that can be written" in said
    )
    assert "remove what is there" not in said


@pytest.mark.parametrize(
    "words",
    [
        f"eval ilcs-neu /tmp/{LONG}",
        f"eval /tmp/{LONG}.safetensors docs",
        f"train --data /tmp/{LONG} --out OUT",
        f"train --data DATA --out /tmp/{LONG}",
        f"train --data DATA --out OUT --init /tmp/{LONG}",
        f"export ilcs-neu --engine onnx --out /tmp/{LONG}",
        f"export ilcs-neu --engine onnx --out OUT --data /tmp/{LONG}",
        f"explain ilcs-neu /tmp/{LONG} --out OUT",
        f"explain ilcs-neu docs --out /tmp/{LONG}",
    ],
)
def test_the_other_commands_refuse_a_name_that_cannot_be_seen(tmp_path: Path, make_images: Callable[..., list[Path]], words: str) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            make_images(tmp_path / "data" / split / label, 2)

    said = linepipe(*words.replace("DATA", f"{tmp_path}/data").replace("OUT", f"{tmp_path}/out").split())

    assert f"/tmp/{LONG}" in said.strip().splitlines()[-1]


def test_what_a_user_may_not_enter_is_said(open_folder: Path, other: pwd.struct_passwd) -> None:
    """Not as root, who may enter everything."""
    (locked := open_folder / "locked").mkdir(mode=0o700)
    (state := open_folder / "state").mkdir()
    os.chown(state, other.pw_uid, other.pw_gid)
    state.chmod(0)
    (shut := open_folder / "shut").mkdir(mode=0o711)
    (shut.parent / "shut.mp4").write_bytes(b"x")
    (shut.parent / "shut.mp4").chmod(0o600)
    sources = [f"folder:{locked}/images", f"video:{locked}/a.mp4", f"folder:{shut}", f"video:{shut}.mp4"]
    file = config(open_folder / "line.yaml", sources, f"{locked}/m.safetensors", state)

    def doctor() -> str:
        return "\n".join(found.found for found in examine(load(file)))

    for said in (become(other, command("validate", file))[1], become(other, command("run", file))[1], become(other, doctor)):
        assert f"cameras.c0.source: {locked}/images cannot be looked at: Permission denied; let this user into" in said
        assert f"cameras.c1.source: {locked}/a.mp4 cannot be looked at: Permission denied" in said
        assert f"cameras.c2.source: {shut} may not be read by this user" in said
        assert f"cameras.c3.source: {shut}.mp4 may not be read by this user" in said
        assert f"infer.model: {locked}/m.safetensors cannot be looked at: Permission denied" in said
        assert f"state_dir: {state} cannot be used by this user; chmod u+rwx it" in said
        assert "Traceback" not in said and "the check broke: PermissionError" not in said.partition("configuration")[2]


@pytest.mark.parametrize(("name", "options"), [("status", ["--json"]), ("events", []), ("events", ["--run", "last"])])
def test_who_asks_a_state_folder_that_he_may_not_enter_is_told(
    open_folder: Path, other: pwd.struct_passwd, name: str, options: list[str]
) -> None:
    (state := open_folder / "state").mkdir()
    os.chown(state, other.pw_uid, other.pw_gid)
    state.chmod(0)

    code, said = become(other, command(name, config(open_folder / "line.yaml", ["folder:x"], "ilcs-neu", state), *options))

    assert code in (1, 2)
    assert "cannot be" in said and "Permission denied" in said
