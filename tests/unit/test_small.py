"""Back-off, histograms, credits, model lookup: the small rules."""

import pkgutil
from pathlib import Path

import msgspec
import pytest

from pipeline.config import Camera, Config, Infer, Preprocess
from pipeline.config.model_file import find_model, read_model
from pipeline.config.topology import PREPROCESS, credits_for, frame_rate, processes
from pipeline.core.errors import ConfigError
from pipeline.core.histogram import Histogram
from pipeline.runtime.node_process import MOST_S, Backoff

SECOND = 1_000_000_000


def test_the_first_restart_is_almost_immediate_and_a_storm_is_slow() -> None:
    backoff = Backoff()

    waits = [backoff.died(SECOND) for _ in range(30)]

    assert waits[0] <= 0.1
    assert waits == sorted(waits)
    assert waits[-1] == MOST_S
    assert backoff.storm()


def test_who_works_between_its_deaths_is_back_at_once() -> None:
    backoff = Backoff()

    waits = [backoff.died(5 * SECOND) for _ in range(10)]

    assert waits == sorted(waits)
    assert waits[-1] == 0.5
    assert backoff.storm()


def test_a_minute_of_running_forgives_but_a_minute_of_waiting_does_not() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.died(0)

    assert backoff.storm()
    assert not backoff.storm(61 * SECOND)
    assert backoff.died(SECOND) > 1
    assert backoff.died(100 * SECOND) <= 0.1


def test_quantiles_are_right_to_within_five_percent_and_add_up() -> None:
    one, other = Histogram(), Histogram()
    for k in range(1, 501):
        one.add(k * 1_000_000)
        other.add((k + 500) * 1_000_000)

    one.merge(other.bins)

    assert one.quantile_ms(0.5) == pytest.approx(500, rel=0.051)
    assert one.quantile_ms(0.99) == pytest.approx(990, rel=0.051)
    assert Histogram().quantile_ms(0.5) is None


def test_a_worker_asks_for_two_batches_worth_of_frames() -> None:
    camera = Camera(source="sim:strip", frame_px=(900, 300), speed_mps=1, pixel_mm=(1, 1))
    config = Config(
        line="l", cameras={"top": camera}, infer=Infer(model="m", max_batch=16), preprocess=Preprocess(overlap_px=32), state_dir="s"
    )

    assert credits_for(config, "top") == 8  # 4 tiles a frame


def test_a_frames_height_gives_the_rate_where_only_the_source_knows_it() -> None:
    camera = Camera(source="video:clip.mp4", speed_mps=0.75, pixel_mm=(0.25, 0.25))

    assert frame_rate(camera) is None
    assert frame_rate(camera, 300) == pytest.approx(10)
    assert frame_rate(msgspec.structs.replace(camera, source="video:clip.mp4?fps=7"), 300) == 7
    assert frame_rate(msgspec.structs.replace(camera, when_full="block"), 300) is None


def test_every_entry_point_that_pipeline_names_exists() -> None:
    for placement in ({"inspect": ["preprocess", "infer"]}, {"pre": ["preprocess"], "gpu": ["infer"]}):
        config = Config(line="l", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir="s", placement=placement)  # type: ignore[arg-type]
        for process in processes(config):
            assert callable(pkgutil.resolve_name(process.entry))
    assert callable(pkgutil.resolve_name(PREPROCESS))


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="ilcs-neu"):
        find_model("ilcs-new")


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64, b"\x80\x02cos\nsystem\n"])
def test_a_file_that_is_no_model_is_refused_unread(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)

    with pytest.raises(ConfigError, match="is not a linepipe model"):
        read_model(path)
