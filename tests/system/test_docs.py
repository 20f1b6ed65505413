"""The documentation is tried, in a folder as a reader has it: every command or that its options exist, Python and YAML."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import yaml
from _pytest.mark import ParameterSet

from pipeline.config import load
from pipeline.core.status import Summary
from tests.conftest import ROOT
from tests.videos import moving, write_video

PAGES = ["README.md", "CONTRIBUTING.md", *("docs/*.md", "docs/reference/*.md", "docs/results/*.md", "ilcs_model/weights/*.md")]
PROGRAMS = ("linepipe ", "make ", "pip ", "python ", "torchrun ", "REDISCLI_AUTH", "pkill ")
TRIED = {
    # README
    "linepipe events deploy/line1.yaml --follow": "linepipe events deploy/line1.yaml --follow | head -n 1",
    "linepipe status deploy/line1.yaml --follow": "timeout -s INT 5 linepipe status deploy/line1.yaml --follow; test $? = 130 -o $? = 124",
    "REDISCLI_AUTH=$(cat .linepipe/line1/redis/reader) redis-cli -p 6380 --user reader XRANGE linepipe:line1:events - + COUNT 3": "",
    "linepipe run deploy/neu-folder.yaml --set cameras.top.source=folder:PATH --summary s.json": "",
    "linepipe run deploy/neu-folder.yaml --set cameras.top.source=video:FILE": "",
    "linepipe train --data PATH --out runs/mine --colour grey": "--epochs 1 --out new",
    "linepipe eval runs/mine/model.safetensors PATH --split test": "",
    "linepipe run line.yaml --set infer.model=runs/mine/model.safetensors": "",
    "linepipe schema events": "",
    "linepipe validate FILE": "",
    "linepipe doctor FILE": "",
    "linepipe --help": "",
    # the tutorial
    "linepipe validate mine.yaml": "",
    "linepipe run mine.yaml --summary s.json": "",
    "linepipe events mine.yaml --run last --type defect": "linepipe run mine.yaml && linepipe events mine.yaml --run last --type defect",
    "linepipe train --data classes --out runs/mine --budget 10m --colour grey": "--budget 5s --out new",
    # how to
    "REDISCLI_AUTH=$(cat .linepipe/line1/redis/reader) redis-cli -p 6380 --user reader XREAD BLOCK 0 STREAMS linepipe:line1:events $": "",
    "linepipe validate FILE --connect": "linepipe validate deploy/line1.yaml --connect",
    "linepipe node NAME FILE": "linepipe node nowhere line.yaml; test $? = 2",
    "linepipe run line.yaml --set cameras.top.source=video:clip.mp4": "",
    "linepipe train --data DIR --out RUN": "--epochs 1 --out new",
    "linepipe train --resume --out RUN": "linepipe train --resume --out runs/mine",
    "linepipe train --data COPY --out RUN --init MODEL --rate 3e-4": "--epochs 1 --out new",
    "linepipe eval MODEL DATA": "",
    "linepipe explain MODEL photos/ --out seen": "",
    "linepipe export MODEL --engine onnx --out DIR --data DATA --split test": "--out new",
    "python -m benchmarks.strip --model MODEL": f"cd {ROOT} && python -m benchmarks.strip --help | grep -e --model",
    "pip install 'linepipe[onnx]'": f"grep '^onnx = ' {ROOT}/pyproject.toml",
    # the reference
    "linepipe schema config": "",
    "linepipe schema status": "",
    "linepipe status CONFIG --json": "linepipe status deploy/line1.yaml --json",
    "linepipe run --summary FILE": "linepipe run line.yaml --summary s.json",
    "linepipe node capture.CAM": "linepipe node capture.none line.yaml; test $? = 2",
    # extending linepipe: tests/system/test_plugins.py runs the whole page
    "linepipe eval --engine patient": "linepipe eval --help",
    "linepipe train --data DATA --out RUN --model small": "linepipe train --help | grep -e --model",
    # the models' cards
    "linepipe train --data neu-det --out runs/neu --seed 0": "--data classes --epochs 1 --out new",
    "linepipe eval ilcs-neu neu-det --corrupt --engine openvino": "linepipe eval ilcs-neu classes --corrupt --engine openvino",
    "linepipe eval ilcs-neu neu-det --boxes --engine openvino": "linepipe eval ilcs-neu boxes --boxes --engine openvino",
    "python -m benchmarks.reproduce": f"cd {ROOT} && python -m benchmarks.reproduce --help",
    "python docs/reference.py": f"cd {ROOT} && python docs/reference.py --check",
}
"""A command of the documentation, and how it is tried here: with further options, by another command, or (empty) as it stands."""
ELSEWHERE = {
    "pip install FOLDER": "tests/system/test_plugins.py",
    "torchrun --nproc-per-node 4 -m pipeline train ...": "tests/contract/test_run_folder.py",
    "linepipe node inspect ...": "what ps shows",
    'pkill -9 -f "linepipe node inspect"': "tests/system/test_faults.py",
}
STANDS_FOR = {
    "folder:PATH": "folder:my-images",
    "video:FILE": "video:clip.mp4",
    **dict.fromkeys(("PATH", "DIR", "DATA", "COPY"), "classes"),
    "FILE": "line.yaml",
    "MODEL": "ilcs-neu",
}
KEYS = re.compile(r"(?:line|cameras|preprocess|infer|publish|placement|state_dir|edges|ignore_px|when_full|layout): [^;]+")


def pages() -> Iterator[tuple[str, str]]:
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            yield str(path.relative_to(ROOT)), path.read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)```", text, re.S | re.M)


def spans(text: str) -> list[str]:
    """What stands between single backquotes, outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]


def commands(text: str) -> Iterator[str]:
    """What is to be typed: lines of blocks without a language, and spans with an argument."""
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks(text, "") for line in block.splitlines()]
    for found in (*lines, *spans(text)):
        command = found.removeprefix(".venv/bin/")
        if command.startswith(PROGRAMS):
            yield command


def test_every_command_of_the_documentation_is_tried() -> None:
    found = {command: page for page, text in pages() for command in commands(text) if not command.startswith("make ")}
    names = {c: page for c, page in found.items() if re.fullmatch(r"linepipe [a-z]+|linepipe \.\.\.", c)}  # the name of a command alone

    assert {c: page for c, page in found.items() if c not in {*TRIED, *ELSEWHERE, *names}} == {}
    assert {*TRIED, *ELSEWHERE} - set(found) == set(), "no page has these any more"


def test_every_make_target_of_the_documentation_is_there() -> None:
    targets = {command.split()[1] for _, text in pages() for command in commands(text) if command.startswith("make ")}

    assert {"run", "test", "check", "install"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: images, a data set, a video, configurations, a trained model."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    rng = np.random.default_rng(1)
    for place, count in {"classes/scratches": 12, "classes/patches": 12, "my-images": 8, "photos": 2, "images": 2}.items():
        (folder / place).mkdir(parents=True)
        for k in range(count):
            grey = rng.integers(0, 128, (64, 64), np.uint8) + (100 if "scratches" in place else 0)
            cv2.imwrite(str(folder / place / f"{k:02}.jpg"), grey)
    cv2.imwrite(str(folder / "image.jpg"), rng.integers(0, 256, (300, 300), np.uint8))
    write_boxes(folder / "boxes")
    write_video(folder / "clip.mp4", moving(10), codec="libx264", pixels="yuv420p")
    tutorial = (ROOT / "docs/tutorial.md").read_text()
    (folder / "mine.yaml").write_text(textwrap.dedent(blocks(tutorial, "yaml")[0]))
    line = {"line": "line", "state_dir": ".linepipe/line", "cameras": {"top": {"source": "folder:my-images", "when_full": "block"}}}
    (folder / "line.yaml").write_text(yaml.safe_dump({**line, "infer": {"model": "ilcs-neu"}}))
    run(folder, "linepipe train --data classes --out runs/mine --epochs 1 --model mobilenet_v2 --colour grey")
    return folder


@pytest.fixture(scope="module")
def demo(workshop: Path) -> Iterator[None]:
    """The demo line, which runs in that folder and has seen a defect."""
    with (workshop / "demo.log").open("w") as log:
        line = subprocess.Popen(["linepipe", "run", "deploy/line1.yaml"], cwd=workshop, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        run(workshop, "until grep -q 'defect  top' demo.log; do sleep 0.1; done")
        yield
    finally:
        line.terminate()
        try:
            line.wait(60)
        except subprocess.TimeoutExpired:
            line.kill()
            raise


def write_boxes(folder: Path) -> None:
    """A COCO set of two images."""
    (folder / "images").mkdir(parents=True)
    for k in (1, 2):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), np.full((64, 64), 100 * k, np.uint8))
    coco = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 64, "height": 64} for k in (1, 2)],
        "annotations": [{"id": k, "image_id": k, "category_id": k, "bbox": [8, 8, 32, 32]} for k in (1, 2)],
        "categories": [{"id": 1, "name": "scratches"}, {"id": 2, "name": "patches"}],
    }
    (folder / "test.json").write_text(json.dumps(coco))


ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(folder: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=ENVIRONMENT, text=True, capture_output=True, timeout=100
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def cases(*, of_the_demo: bool) -> list[ParameterSet]:
    chosen = [(command, tried) for command, tried in TRIED.items() if of_the_demo == ("line1" in command + tried)]
    return [pytest.param(*case, id=case[0]) for case in chosen]


@pytest.mark.long
@pytest.mark.parametrize(("documented", "tried"), cases(of_the_demo=False))
def test_a_command_of_the_documentation_works(workshop: Path, documented: str, tried: str) -> None:
    shutil.rmtree(workshop / "new", ignore_errors=True)

    run(workshop, command(documented, tried))


@pytest.mark.long
@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(("documented", "tried"), cases(of_the_demo=True))
def test_a_command_on_the_running_demo_line_works(workshop: Path, documented: str, tried: str) -> None:
    if "redis-cli" in documented and shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli: apt-get install redis-server")
    port = (workshop / ".linepipe/line1/redis/url").read_text().split(":")[2].split("/")[0]

    said = run(workshop, command(documented, tried).replace("6380", port))

    if "redis-cli" in documented:
        assert '"type":"' in said, said


def command(documented: str, tried: str) -> str:
    if tried and not tried.startswith("--"):
        return tried
    return f"{re.sub('|'.join(STANDS_FOR), lambda word: STANDS_FOR[word[0]], documented)} {tried}"


def test_configuration_in_the_documentation_can_be_read(tmp_path: Path) -> None:
    """Each span of YAML, put where it belongs into a whole configuration."""
    own = [text for page, text in pages() if page.startswith(("README", "docs"))]
    found = [yaml.safe_load(span) for text in own for span in spans(text) if KEYS.fullmatch(span)]
    assert len(found) > 5
    for piece in found:
        ((key, value),) = piece.items()
        camera = {"source": "sim:strip", "frame_px": [300, 300], "pixel_mm": [1, 1], "speed_mps": 1}
        tree = {"line": "l", "cameras": {"top": camera}, "infer": {"model": "ilcs-neu"}, "state_dir": str(tmp_path)}
        if key == "ignore_px":
            value = [[0, 0, 10, 10]]
        if key == "layout":
            tree["preprocess"] = piece
        elif key in ("edges", "ignore_px", "when_full"):
            camera[key] = value
        elif isinstance(value, dict):
            tree[key] = {**tree.get(key, {}), **value}  # type: ignore[dict-item]
        (tmp_path / "line.yaml").write_text(yaml.safe_dump(tree))
        if "patient" not in str(piece) and "webhook" not in str(piece):  # tests/system/test_plugins.py installs these
            load(tmp_path / "line.yaml")


def test_the_summary_in_the_documentation_is_one() -> None:
    (summary,) = [b for _, text in pages() for b in blocks(text, "json") if b.startswith('{"line"')]

    assert msgspec.json.decode(summary, type=Summary, strict=True).cameras["top"].inspected == 201


@pytest.mark.long
@pytest.mark.usefixtures("demo")
def test_programs_of_the_documentation_run(workshop: Path) -> None:
    """Those of extending linepipe are in tests/system/test_plugins.py."""
    reads, judges = blocks((ROOT / "docs/how-to.md").read_text(), "python")
    (workshop / "reads.py").write_text(reads)
    (workshop / "judges.py").write_text(judges + "assert logits.shape == (1, 6)\n")

    assert "defect" in run(workshop, "set +o pipefail; python -u reads.py 2> /dev/null | grep -m 1 defect")
    run(workshop, "linepipe export ilcs-neu --engine onnx --out DIR && python judges.py")
