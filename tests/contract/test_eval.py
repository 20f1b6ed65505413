"""``linepipe eval``: what it prints is what the engine answers, and what cannot be evaluated is said before it starts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch

from ilcs_model.data.corrupt import KINDS
from ilcs_model.data.dataset import open_dataset
from ilcs_model.data.loader import plain_batches
from ilcs_model.evaluation.metrics import measure
from ilcs_model.evaluation.predict import predict, top1
from ilcs_model.files import load_model, save_model
from ilcs_model.info import digest
from nodes.offline.eval import BATCH, TIMED
from pipeline.cli.main import main
from tests.tiny import write_tiny_model

COUNTS = {"a": 11, "b": 10, "c": 12}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Classes a, b, c; its last layer tells grey levels apart: dark images are a, bright ones c."""
    path = write_tiny_model(tmp_path)
    network, info = load_model(path)
    with torch.no_grad():
        network.get_parameter("fc.weight").copy_(torch.tensor([[-3.0], [0.0], [3.0]]).expand(3, 8))
        grey = torch.full((1, 1, 32, 32), 128, dtype=torch.uint8)
        network.get_parameter("fc.bias").sub_(network(grey)[0][0] - torch.tensor([0.0, 1.0, 0.0]))
    save_model(path, network, info)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class sub-folders of grey images, brighter from class to class, not quite apart."""
    rng = np.random.default_rng(0)
    for k, (label, count) in enumerate(COUNTS.items()):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(count):
            level = int(np.clip(rng.normal(70 + 60 * k, 25), 0, 235))
            image = rng.integers(level, level + 20, (40, 40), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / label / f"{label}{number}.png"), image)
    return tmp_path / "data"


def with_split(data: Path, split_of: Callable[[int], str]) -> Path:
    """Give the folder a split.csv; ``split_of`` takes the image's number in its class."""
    rows = [f"{c}/{c}{k}.png,{c},{split_of(k)}" for c, count in COUNTS.items() for k in range(count)]
    (data / "split.csv").write_text("\n".join(["file,class,split", *rows]))
    return data


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["eval", *map(str, args)])
    assert isinstance(done.value.code, int)
    return done.value.code


Report = Callable[..., dict[str, Any]]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    def run(*args: object) -> dict[str, Any]:
        assert call(*args, "--json") == 0
        found: dict[str, Any] = json.loads(capfd.readouterr().out)
        return found

    return run


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_the_figures_are_those_of_the_network(model: Path, data: Path, report: Report, engine: str) -> None:
    found = report(model, data, "--engine", engine)

    network, info = load_model(model)
    opened = open_dataset(data)
    batches = list(plain_batches(opened, list(range(33)), info.recipe, 8))
    right = msgspec.to_builtins(measure(*predict(network, batches), info.classes))
    assert 0.5 < right["top1"] == top1(network, batches) < 1
    for exact in ("images", "top1", "top5", "classes", "confusion"):
        assert found["figures"][exact] == msgspec.json.decode(msgspec.json.encode(right[exact]))
    assert found["figures"]["calibration"]["error"] == pytest.approx(right["calibration"]["error"], abs=0.02)
    assert found["engine"].startswith(engine)
    assert (found["model"], found["digest"]) == ("tiny", digest(model))
    assert (found["data"], found["split"], found["images"]) == ("data", "all", 33)
    assert found["speed"]["images_per_s"] > 0
    assert (found["speed"]["batch"], found["speed"]["batches"]) == (BATCH, TIMED)
    assert found["machine"]
    assert found["corruption"] is None


def test_a_pipe_gets_plain_text_of_eighty_columns(model: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(model, data, "--corrupt") == 0

    done = capfd.readouterr()
    assert done.err == ""
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    for words in ("Top-1", "images/s", "precision", "Confusion", "coverage", "no class ok", "motion_blur", "jpeg *", "mean of all"):
        assert words in done.out
    assert "trained on" not in done.out


def test_a_model_with_a_class_ok_is_told_by_misses_and_false_alarms(
    model: Path, data: Path, report: Report, capfd: pytest.CaptureFixture[str]
) -> None:
    network, info = load_model(model)
    save_model(model, network, msgspec.structs.replace(info, classes=("a", "b", "ok")))
    (data / "c").rename(data / "ok")

    assert report(model, data)["figures"]["curve"]["kind"] == "misses_and_false_alarms"
    assert call(model, data) == 0
    assert "no false alarm: from" in capfd.readouterr().out

    for image in (data / "ok").iterdir():
        image.unlink()
    assert call(model, data) == 0
    assert "no false alarm: not known" in capfd.readouterr().out


def test_many_classes_are_shown_by_the_pairs_confused_most_often(
    data: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    network, info = load_model(model)
    fc = network.get_submodule("fc")
    assert isinstance(fc, torch.nn.Linear)
    network.fc = torch.nn.Linear(8, 40)
    with torch.no_grad():
        network.fc.weight[:3], network.fc.bias[:3] = fc.weight, fc.bias
        network.fc.bias[3:] = -99
    save_model(model, network, msgspec.structs.replace(info, classes=(*info.classes, *(f"class_{k}" for k in range(37)))))

    assert call(model, data) == 0

    out = capfd.readouterr().out
    assert "Confused most often" in out
    assert max(map(len, out.splitlines())) <= 80


def test_corruptions_are_the_same_in_every_run(model: Path, data: Path, report: Report) -> None:
    one, other = (report(model, data, "--corrupt", "--split", "test")["corruption"] for _ in range(2))

    assert one == other
    assert set(one["kinds"]) == set(KINDS)
    assert all(len(found["strengths"]) == 5 for found in one["kinds"].values())
    assert one["kinds"]["contrast_loss"]["strengths"][4] < 1


def test_test_is_the_split_where_the_data_names_splits(model: Path, data: Path, report: Report) -> None:
    with_split(data, lambda k: "test" if k > 5 else "val" if k > 2 else "train")

    assert (report(model, data)["split"], report(model, data)["images"]) == ("test", 15)
    assert report(model, data, "--split", "val")["images"] == 9
    assert report(model, data, "--split", "all")["images"] == 33


def test_data_of_fewer_classes_and_without_a_train_split_can_be_evaluated(
    model: Path, data: Path, report: Report, capfd: pytest.CaptureFixture[str]
) -> None:
    with_split(data, lambda _: "test")
    rows = (data / "split.csv").read_text().splitlines()
    (data / "split.csv").write_text("\n".join(row for row in rows if not row.endswith(("a,test", "b,test"))))

    found = report(model, data)
    assert [c["support"] for c in found["figures"]["classes"]] == [0, 0, 12]
    assert np.array(found["figures"]["confusion"])[2].sum() == 12  # the model's columns, not the data's
    assert call(model, data) == 0
    assert "no image of: a, b" in capfd.readouterr().out


def test_images_that_the_model_was_trained_on_are_said(model: Path, data: Path, report: Report, capfd: pytest.CaptureFixture[str]) -> None:
    assert report(model, data)["seen_in_training"] is None
    network, info = load_model(model)
    save_model(model, network, msgspec.structs.replace(info, data=open_dataset(data).summary()))

    assert report(model, data)["seen_in_training"] == 30
    assert report(model, data, "--split", "test")["seen_in_training"] == 0
    assert call(model, data) == 0
    assert "trained on 30 of these images" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split", "val"], "no image in split 'val'; there is test (3 images), train (30 images)"),
        (["--engine", "tensorrt"], "'tensorrt' is not one of"),
    ],
)
def test_a_wrong_choice_is_refused(model: Path, data: Path, capfd: pytest.CaptureFixture[str], options: list[str], says: str) -> None:
    assert call(model, data, *options) == 2
    assert says in " ".join(capfd.readouterr().err.split())


def test_classes_that_the_model_does_not_know_are_named(model: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data / "c").rename(data / "scratch")

    assert call(model, data) == 2
    assert "does not know: scratch; it knows what the data lacks: c" in capfd.readouterr().err


def test_all_unreadable_images_are_named_before_anything_is_judged(model: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data / "a" / "a3.png").write_bytes(b"")
    (data / "c" / "c1.png").write_bytes((data / "c" / "c1.png").read_bytes()[:40])

    assert call(model, data) == 2
    said = capfd.readouterr().err
    assert "a3.png: not a readable image" in said
    assert "c1.png: not a readable image" in said


@pytest.mark.parametrize("engine", ["eager", "openvino"])
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no model file"), (b"", "not a readable safetensors"), (b"\x02" + bytes(7) + b"{}", "not of linepipe")],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str], engine: str, content: bytes | None, says: str
) -> None:
    wrong = tmp_path / "wrong.safetensors"
    if content is not None:
        wrong.write_bytes(content)

    assert call(wrong, data, "--engine", engine) == 2
    said = capfd.readouterr().err
    assert says in said
    assert "wrong.safetensors" in said


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_a_truncated_model_is_refused(model: Path, data: Path, capfd: pytest.CaptureFixture[str], engine: str) -> None:
    model.write_bytes(model.read_bytes()[:-100])

    assert call(model, data, "--engine", engine) == 2
    assert "tiny.safetensors" in capfd.readouterr().err


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_a_folder_without_images_is_refused(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str) -> None:
    (tmp_path / "empty").mkdir()

    assert call(model, tmp_path / what) == 2
    assert what in capfd.readouterr().err


def test_a_converted_model_is_kept_in_the_users_cache(model: Path, data: Path, cache: Path, report: Report) -> None:
    report(model, data, "--engine", "openvino")

    (kept,) = (cache / "linepipe" / "engines").iterdir()
    assert (kept / "model.xml").is_file()


def test_a_cache_that_cannot_be_written_is_named(model: Path, data: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache.write_text("a file")

    assert call(model, data, "--engine", "openvino") == 1
    assert "XDG_CACHE_HOME" in capfd.readouterr().err
