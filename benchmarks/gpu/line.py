"""Whole lines: the demo at its own rate, and far more frames than one camera can give, small and large."""

from benchmarks.gpu.item import Result, Where
from benchmarks.line import run_line

FLOOD_FPS = 20_000


def demo(where: Where) -> None:
    """The demo line at its own rate, tiles cut by OpenCV."""
    where.keep(_line(where, "demo", "cpu"))


def flood(where: Where) -> None:
    """Frames of 900 x 300 as fast as the line takes them, cut by OpenCV."""
    where.keep(_line(where, "flood", "cpu", *_flood(where)))


def large(where: Where) -> None:
    """Frames of 8192 x 2048 as fast as the line takes them, cut by OpenCV."""
    where.keep(_line(where, "large", "cpu", *_flood(where), *_LARGE))


def demo_dali(where: Where) -> None:
    """The demo line, tiles cut by DALI on the GPU."""
    where.keep(_line(where, "demo", _dali(where)))


def large_dali(where: Where) -> None:
    """Frames of 8192 x 2048 as fast as the line takes them, cut by DALI on the GPU."""
    where.keep(_line(where, "large", _dali(where), *_flood(where), *_LARGE))


_LARGE = ("--set", "cameras.top.frame_px=[8192, 2048]")


def _flood(where: Where) -> tuple[str, ...]:
    source = f"cameras.top.source=sim:strip?seed=7&fps={FLOOD_FPS}&repeat=64"
    return "--set", source, "--set", "cameras.top.when_full=block", "--set", f"infer.max_batch={256 if where.on_gpu else 4}"


def _dali(where: Where) -> str:
    return "gpu" if where.on_gpu else "dali"


def _line(where: Where, name: str, device: str, *options: str) -> Result:
    state = where.folder(f"{name}-{device}")
    engines = where.cache / "engines"  # where "compile" left its code
    engines.mkdir(exist_ok=True)
    (state / "engines").symlink_to(engines)
    common = ("--set", f"preprocess.device={device}", "--set", "infer.engine=compiled", "--for", "8s" if where.on_gpu else "3s")
    return run_line(state, "deploy/line1.yaml", [*common, *options])
