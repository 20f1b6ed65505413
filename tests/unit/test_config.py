"""Configuration: every mistake is refused with file, line, key and what to do; nothing is guessed."""

from pathlib import Path

import pytest

from pipeline.client import Events, RedisUnreachableError
from pipeline.config import Config, load
from pipeline.core.errors import ConfigError

GOOD = """\
line: line1
cameras:
  top:
    source: sim:strip?seed=7
    speed_mps: 0.75
    frame_px: [900, 300]
    pixel_mm: [0.25, 0.25]
infer: {model: ilcs-neu}
state_dir: state
"""


def read(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "line.yaml"
    path.write_text(text)
    return load(path, overrides)


def test_what_is_left_out_has_its_documented_default(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)

    assert config.cameras["top"].when_full == "drop_oldest"
    assert config.placement == {"inspect": ["preprocess", "infer"]}
    assert config.publish.redis == "embedded"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("speed_mps: 0.75", "speed_mp: 0.75", 5, "cameras.top.speed_mp: unknown key"),
        ("speed_mps: 0.75", "speed_mps: fast", 5, "cameras.top.speed_mps: expected `float"),
        ("speed_mps: 0.75", "speed_mps: -1", 5, "cameras.top.speed_mps: expected `float` > 0"),
        ("[900, 300]", "[900]", 6, "cameras.top.frame_px"),
        ("sim:strip?seed=7", "rtps://camera", 4, "cameras.top.source: 'rtps://camera' is not a known source"),
        ("sim:strip?seed=7", "sim:strip?sed=7", 4, "no option 'sed'"),
        ("sim:strip?seed=7", "sim:strip?fps=0", 4, "fps=0 should be a number"),
        ("infer: {model: ilcs-neu}", "infer: {}", 8, "infer.model: is required and missing"),
        (
            "infer: {model: ilcs-neu}",
            "infer: {model: m, engine: tensorrt}",
            8,
            "infer.engine: there is no engine 'tensorrt'; write auto, openvino, onnx, compiled, eager",
        ),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'http://x'}", 10, "publish.redis: 'http://x' is not a Redis URL"),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://h:99999'}", 10, "publish.redis: 'redis://h:99999': host, port"),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://:pw@h'}", 10, "a password does not belong here"),
        (
            "state_dir: state",
            "state_dir: state\npublish: {redis: 'redis://h?passwort=x'}",
            10,
            "publish.redis: no option 'passwort'; redis:// takes",
        ),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://h?password=x'}", 10, "publish.redis: a password does not belong"),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://h?ssl_ca_certs=/c'}", 10, "no option 'ssl_ca_certs'"),
        (
            "state_dir: state",
            "state_dir: state\npublish: {redis: 'redis://redis..plant:6379/0'}",
            10,
            "host, port or database is malformed",
        ),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://.plant/0'}", 10, "host, port or database is malformed"),
        (
            "state_dir: state",
            f"state_dir: state\npublish: {{redis: 'redis://{'a' * 64}.plant/0'}}",
            10,
            "host, port or database is malformed",
        ),
        (
            "state_dir: state",
            "state_dir: state\npublish: {redis: 'unix:///s?db=one'}",
            10,
            "publish.redis: db=one should be a whole number",
        ),
        (
            "state_dir: state",
            "state_dir: state\npublish: {redis: 'rediss://h?ssl_cert_reqs=maybe'}",
            10,
            "should be required, optional or none",
        ),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'redis://h?db'}", 10, "db= should be a whole number"),
        ("infer: {model: ilcs-neu}", "infer: {model: m, classes: {pits: {min_score: 3}}}", 8, "infer.classes.pits.min_score: expected"),
        ("state_dir: state", "state_dir: state\npublish: {sinks: {log: null}}", 10, "publish.sinks.log: expected `str`"),
        ("state_dir: state", "state_dir: state\nplacement: {gpu: infer}", 10, "placement.gpu: expected `array`"),
        ("state_dir: state", "state_dir: state\nplacement: {gpu: [infer]}", 10, "placement: must place preprocess once and infer once"),
        ("state_dir: state", "state_dir: state\npreprocess: {tile_px: 100, overlap_px: 100}", 10, "overlap_px: must be smaller"),
        ("line: line1", "line: Line 1", 1, "line: a name begins with a lower-case letter"),
        ("  top:", "  Süd:", 3, "cameras.Süd: a name begins with a lower-case letter"),
        ("speed_mps: 0.75", "when_full: Block", 5, "cameras.top.when_full: invalid enum value 'Block'; `linepipe schema config` lists"),
        ("line: line1", "line: line1\nline: line2", 2, "line: is given twice"),
        ("line: line1", "line: &a line1", 1, "anchors, aliases and tags"),
        ("line: line1", "line: !!python/object:os.system x", 1, "anchors, aliases and tags"),
        ("state_dir: state", "state_dir: [", 9, "not valid YAML"),
        ("cameras:", "cameras: {}\nothers:", 2, "cameras: expected `object` of length >= 1"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD

    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(old, new))

    text = str(caught.value)
    assert f"line.yaml:{line}" in text or (says == "not valid YAML" and "line.yaml:" in text)
    assert says.lower() in text.lower()


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?db=3",
        "redis://redis.plant.:1/0",
        "redis://[::1]:1/0",
        "unix:///run/s.sock?db=1",
        "rediss://me@h:6380/2?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
    ],
)
def test_what_a_redis_url_may_say_can_be_connected_with(tmp_path: Path, url: str) -> None:
    """redis-py takes it too: an option that it does not know is an error only when it connects."""
    config = read(tmp_path, GOOD.replace("state_dir: state", f"state_dir: state\npublish: {{redis: '{url}'}}"))

    with Events(config.publish.redis, "s") as events, pytest.raises(RedisUnreachableError):
        events.ping()


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "{" * 2000, "a: " + "[" * 300 + "]" * 300, "a: " + "[" * 100_000, "\x00"])
def test_what_is_no_configuration_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"line\.yaml"):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml")


def test_an_override_replaces_one_key(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD, "cameras.top.source=folder:images", "infer.max_batch=4", "publish.redis=redis://h:1/0")

    assert config.cameras["top"].source == "folder:images"
    assert config.infer.max_batch == 4
    assert config.publish.redis == "redis://h:1/0"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("infer.max_batch", "write --set KEY"),
        ("infer.max_batch=many", "--set infer.max_batch: infer.max_batch: expected `int`"),
        ("infer.max_bath=3", "unknown key"),
        ("line.name=x", "line is not a group of keys"),
        ("publish.password=secret", "command line is public"),
        ("cameras.a/b.source=sim:strip", "cameras.a/b: a name begins with"),
        ("cameras.top.frame_px=[100000, 100000]", "more than limits.max_pixels"),
        ("cameras.top.speed_mps=.inf", "expected `float` <="),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD, override)

    assert says in str(caught.value)


def test_an_override_may_be_a_whole_group(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD, "placement={pre: [preprocess], gpu: [infer]}")

    assert config.placement == {"pre": ["preprocess"], "gpu": ["infer"]}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("state_dir: state", r'state_dir: "a\0b"', ":9: state_dir: '/"),
        ("model: ilcs-neu", r'model: "a\0/b"', ":8: infer.model: 'a"),
        ("source: sim:strip?seed=7", r'source: "folder:a\0b"', ":4: cameras.top.source: 'folder:a"),
        ("state_dir: state", 'state_dir: state\npublish: {password_file: "a\\0b"}', ":10: publish.password_file: 'a"),
        ("state_dir: state", "state_dir: state\npublish: {redis: 'unix:///a%00b'}", ":10: publish.redis: 'unix:///a"),
        ("state_dir: state", r'state_dir: "a\ud800"', "is not UTF-8; give the folder or file a name that is"),
    ],
)
def test_a_name_that_no_file_can_have_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD

    with pytest.raises(ConfigError) as caught:
        read(tmp_path, GOOD.replace(old, new))

    assert says in str(caught.value)
    assert "NUL" in str(caught.value) or "UTF-8" in says
