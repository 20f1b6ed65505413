"""Short ways to write down what travels."""

from pipeline.core.frame import FrameMeta


def meta(frame: int, epoch: str = "e1", camera: str = "top", **more: object) -> FrameMeta:
    """The description of one raw frame."""
    fields = {"shape": (2, 2), "length": 4, "arrived_ns": 0, "captured_ns": 1_700_000_000_000_000_000, **more}
    return FrameMeta(camera=camera, epoch=epoch, frame=frame, **fields)  # type: ignore[arg-type]
