"""What a training run leaves, and how it goes on: after a kill, elsewhere, in several processes, on a short budget."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ilcs_model.commands.train import train as command
from ilcs_model.data.dataset import open_dataset
from ilcs_model.errors import DataError
from ilcs_model.files import load_model
from ilcs_model.networks.ilcs import ILCS
from ilcs_model.training.run import train
from ilcs_model.training.settings import Settings
from ilcs_model.training.trainer import class_weights

QUICK = Settings(name="tiny", model="tiny", epochs=2, batch=4, norm_images=4)
PYTHON = [sys.executable, "-m", "pipeline", "train"]


@pytest.fixture
def folder(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Path:
    """Two classes of ten small images, one of each held out."""
    for label in ("dark", "light"):
        make_images(tmp_path / "data" / label, 10)
    return tmp_path / "data"


@pytest.fixture
def with_val(folder: Path) -> Path:
    """The same with a split val."""
    rows = ["file,class,split"]
    for k, path in enumerate(sorted(folder.rglob("*.jpg"))):
        rows.append(f"{path.relative_to(folder)},{path.parent.name},{('train', 'train', 'train', 'val', 'test')[k % 5]}")
    (folder / "split.csv").write_text("\n".join(rows))
    return folder


def epochs(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_all_that_the_run_was(with_val: Path, tmp_path: Path) -> None:
    train(open_dataset(with_val), run := tmp_path / "run", QUICK)

    assert {p.name for p in run.iterdir()} == {
        *("settings.json", "environment.json", "metrics.jsonl", "last.pt", "best.pt", "model.safetensors", "model.md", "report.json"),
        *("accuracy.png", "loss.png", "confusion-val.png", "confusion-test.png"),
        *(["misclassified.png"] if json.loads((run / "report.json").read_text())["wrong"] else []),
    }
    assert json.loads((run / "settings.json").read_text())["model"] == "tiny"
    assert [r["epoch"] for r in epochs(run)] == [1, 2]
    assert ["judged_accuracy" in r for r in epochs(run)] == [False, True], "a short run is judged at its end alone"
    assert all(0 < r["loader_share"] < 1 for r in epochs(run))
    for picture in run.glob("*.png"):
        assert cv2.imread(str(picture)) is not None
    card = (run / "model.md").read_text()
    assert "On test: " in card and "| dark |" in card


def test_what_was_misclassified_is_named_and_shown(with_val: Path, tmp_path: Path) -> None:
    """A network that has learned nothing gives all images one label."""
    settings = msgspec.structs.replace(QUICK, epochs=1, rate=1e-12)

    train(open_dataset(with_val), run := tmp_path / "run", settings)

    report = json.loads((run / "report.json").read_text())
    missed = sum(sum(row) - row[k] for s in report["splits"].values() for k, row in enumerate(s["confusion"]))
    assert len(report["wrong"]) == missed > 0
    assert cv2.imread(str(run / "misclassified.png")) is not None


def test_a_killed_run_goes_on_from_its_folder_with_data_that_have_moved(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--data", str(folder), "--out", str(run), "--model", "tiny", "--epochs", "20", "--batch", "4"]
    with subprocess.Popen([*PYTHON, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2:"):
                process.send_signal(signal.SIGKILL)
                break
    done = torch.load(run / "last.pt", weights_only=True)["epochs"]
    with (run / "metrics.jsonl").open("a") as file:  # as a kill between the two files would leave it
        file.write(json.dumps({"epoch": done + 1, "loss": 9.0, "accuracy": 0.0}) + "\n")
    assert 2 <= done < 20
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({**settings, "epochs": done + 1}, indent=1))  # so that the test ends soon
    elsewhere = shutil.move(folder, tmp_path / "elsewhere")
    moved = shutil.move(run, tmp_path / "moved")

    lost = CliRunner().invoke(command, ["--resume", "--out", str(moved)])
    resumed = CliRunner().invoke(command, ["--resume", "--out", str(moved), "--data", str(elsewhere)])

    assert lost.exit_code == 2 and "give --data" in lost.output
    assert resumed.exit_code == 0, resumed.output
    assert [r["epoch"] for r in epochs(Path(moved))] == list(range(1, done + 2))
    assert (Path(moved) / "model.safetensors").exists()


def test_a_run_may_not_lie_in_its_data(folder: Path) -> None:
    for run in (folder, folder / "run"):
        with pytest.raises(DataError, match="is in the data folder"):
            train(open_dataset(folder), run, QUICK)


def test_one_training_at_a_time_writes_into_a_folder(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--data", str(folder), "--out", str(run), "--model", "tiny", "--epochs", "10000", "--batch", "4"]
    with subprocess.Popen([*PYTHON, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch 1:"))
        second = CliRunner().invoke(command, ["--resume", "--out", str(run)])
        process.kill()

    assert second.exit_code == 2
    assert f"{run}: another training writes into this folder" in second.output


def test_a_resumed_run_keeps_its_settings(folder: Path, tmp_path: Path) -> None:
    train(open_dataset(folder), tmp_path / "run", QUICK)

    result = CliRunner().invoke(command, ["--resume", "--out", str(tmp_path / "run"), "--rate", "1", "--seed", "3"])

    assert result.exit_code == 2
    assert "--rate, --seed cannot be changed" in result.output


def test_a_run_does_not_go_on_with_other_images(folder: Path, tmp_path: Path) -> None:
    train(open_dataset(folder), tmp_path / "run", QUICK)
    next((folder / "dark").iterdir()).rename(folder / "dark" / "other.jpg")

    with pytest.raises(DataError, match="other training images"):
        train(open_dataset(folder), tmp_path / "run", QUICK, resume=True)


def test_two_processes_train_one_network(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline", "train"]
    options = ["--data", str(folder), "--out", str(run), "--model", "mobilenet_v2", "--epochs", "1", "--batch", "4"]

    done = subprocess.run([*launcher, *options], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=110)

    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("epoch 1:") == 1
    assert torch.load(run / "last.pt", weights_only=True)["step"] == 2  # 18 images, 8 a step
    load_model(run / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rate", "nan"], "--rate"),
        (["--rate", "inf"], "--rate"),
        (["--name", "a/b"], "--name"),
        (["--epochs", "3", "--budget", "2s"], "--epochs and --budget both say"),
    ],
)
def test_nonsense_is_refused_before_anything_is_read(tmp_path: Path, options: list[str], says: str) -> None:
    result = CliRunner().invoke(command, ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"), *options])

    assert result.exit_code == 2
    assert says in result.output and "nowhere" not in result.output


def test_class_names_in_any_script_are_fine(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    for label in ("划痕", "夹杂"):
        make_images(tmp_path / "data" / label, 10)

    train(open_dataset(tmp_path / "data"), run := tmp_path / "run", QUICK)

    assert "| 划痕 |" in (run / "model.md").read_text()


def test_a_terminal_shows_loss_accuracy_pace_and_time_left(folder: Path, tmp_path: Path) -> None:
    options = ["--data", str(folder), "--out", str(tmp_path / "run"), "--model", "tiny", "--epochs", "2", "--batch", "4"]
    ours, terminal = os.openpty()
    with subprocess.Popen([*PYTHON, *options], stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "COLUMNS": "120"}) as process:
        os.close(terminal)
        seen = b""
        with suppress(OSError):  # how Linux says that nobody writes to a terminal any more
            while more := os.read(ours, 4096):
                seen += more
        assert process.wait() == 0
    os.close(ours)

    plain = re.sub(rb"\x1b\[[\d;?]*\w", b"", seen)
    assert re.search(rb"epoch 2.*loss \d+\.\d+ +accuracy \d+\.\d% +\d+\.\d images/s +0:00:\d\d", plain)


def test_a_budget_ends_the_training(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        command, ["--data", str(folder), "--out", str(tmp_path / "run"), "--model", "tiny", "--batch", "4", "--budget", "2s"]
    )

    assert result.exit_code == 0, result.output
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["trained_s"] >= 2
    assert state["trained_s"] - 2 < 30  # one step beyond it at most, on however slow a machine


def test_a_run_that_gets_no_better_ends_early_and_gives_its_best_weights(with_val: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, epochs=32, rate=1e-12, patience=2)
    said: list[str] = []

    train(open_dataset(with_val), tmp_path / "run", settings, report=lambda r: said.append(str(r.get("remark", ""))))

    assert len(epochs(tmp_path / "run")) < 32
    assert any("stopped early" in text for text in said)
    assert any("the weights of epoch" in text for text in said)


def test_judgements_without_a_better_one_count_on_after_a_resume(with_val: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, epochs=32, rate=1e-12, patience=3)
    data = open_dataset(with_val)
    train(data, tmp_path / "whole", settings)

    def interrupt(record: dict[str, Any]) -> None:
        if "judged" in record:
            raise KeyboardInterrupt

    while not (tmp_path / "cut" / "model.safetensors").exists():
        with suppress(KeyboardInterrupt):
            train(data, tmp_path / "cut", settings, resume=True, report=interrupt)

    assert len(epochs(tmp_path / "cut")) == len(epochs(tmp_path / "whole")) < 32


def test_rare_classes_count_more(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    make_images(tmp_path / "data" / "often", 40)
    make_images(tmp_path / "data" / "rare", 10)

    weights = class_weights(open_dataset(tmp_path / "data"))

    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(4)


def test_classes_of_about_one_size_are_not_weighted(folder: Path) -> None:
    assert class_weights(open_dataset(folder)) is None


def test_colour_is_seen_and_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, tint in (("blue", (200, 60, 60)), ("red", (60, 60, 200))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(10):
            picture = (rng.integers(-20, 20, (50, 70, 3)) + np.array(tint)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "data" / label / f"{k}.png"), picture)
    said: list[str] = []

    settings = msgspec.structs.replace(QUICK, model="mobilenet_v2")
    path = train(open_dataset(tmp_path / "data"), tmp_path / "run", settings, report=lambda r: said.append(str(r.get("remark", ""))))

    assert load_model(path)[1].recipe.decode == "rgb"
    assert any("--colour grey" in text for text in said)


@pytest.mark.parametrize("damage", ["truncated", "hostile", "no dict", "other", "foreign"])
def test_a_checkpoint_that_cannot_be_used_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    data, run = open_dataset(folder), tmp_path / "run"
    train(data, run, QUICK)
    last = run / "last.pt"
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:1000])
    elif damage == "hostile":
        torch.save({"model": Hostile(tmp_path / "harm")}, last)
    elif damage == "no dict":
        torch.save({**torch.load(last, weights_only=True), "of": 3}, last)
    else:
        other = msgspec.structs.replace(QUICK, **({"model": "mobilenet_v2"} if damage == "other" else {"seed": 1}))
        train(data, tmp_path / "other", other)
        shutil.copy(tmp_path / "other" / "last.pt", last)

    with pytest.raises(DataError, match=r"last\.pt"):
        train(data, run, QUICK, resume=True)

    assert not (tmp_path / "harm").exists()


def test_a_damaged_line_of_the_metrics_is_named(folder: Path, tmp_path: Path) -> None:
    data, run = open_dataset(folder), tmp_path / "run"
    train(data, run, QUICK)
    for damage in (b"{\n", b"\xff\n", b"[1]\n"):
        (run / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + damage)
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: damaged"):
            train(data, run, QUICK, resume=True)


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "harm")


@pytest.mark.parametrize(("rate", "epochs"), [(1e5, 1), (1e30, 20)])
def test_a_loss_beyond_all_bounds_ends_the_run_with_advice(folder: Path, tmp_path: Path, rate: float, epochs: int) -> None:
    with pytest.raises(DataError, match="lower --rate"):
        train(open_dataset(folder), tmp_path / "run", msgspec.structs.replace(QUICK, rate=rate, epochs=epochs))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_found_before_the_first_epoch(folder: Path, tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        with pytest.raises(DataError, match="make room first"):
            train(open_dataset(folder), disk / "run", QUICK)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_on_the_way_ends_the_run_with_advice(folder: Path, tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")

    def fill(record: dict[str, Any]) -> None:
        if "done" in record:
            with (disk / "filler").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free + file.tell())

    try:
        with pytest.raises(DataError, match="--resume"):
            train(open_dataset(folder), disk / "run", QUICK, report=fill)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_all_unreadable_images_are_named_before_the_first_epoch(folder: Path, tmp_path: Path) -> None:
    for name in ("dark/image_0003.jpg", "light/image_0005.jpg"):
        (folder / name).write_bytes(b"no image")

    with pytest.raises(DataError, match=r"(?s)2 of 20 .*image_0003.*image_0005"):
        train(open_dataset(folder), tmp_path / "run", QUICK)

    assert not (tmp_path / "run").exists()


def test_the_papers_recipe_trains_the_papers_network(folder: Path, tmp_path: Path) -> None:
    path = train(open_dataset(folder), tmp_path / "run", Settings(recipe="paper", epochs=1, batch=4, norm_images=4))

    network, info = load_model(path)
    assert not info.invariant
    assert isinstance(network, ILCS) and network.fc1.in_features == 37 * 37 * 256
