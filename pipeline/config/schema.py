"""The keys of a line's configuration, with what each means: ``docs/reference/configuration.md`` is made from this."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="lower-case letters, digits, - and _; starts with a letter")]
Whole = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Camera(_Tree, frozen=True, kw_only=True):
    """One camera. Its frames are numbered from 0 in each run."""

    source: Annotated[
        str,
        Meta(
            description=(
                "`folder:PATH[?loop=true&fps=N]`, `video:PATH[?loop=true&fps=N]`, `sim:strip[?seed=N&fps=N&repeat=N]`, or "
                "one of another package"
            )
        ),
    ]
    speed_mps: Annotated[
        Positive | None, Meta(description="speed of the material; with frame height and `pixel_mm` it gives the frame rate")
    ] = None
    frame_px: Annotated[
        tuple[Size, Size] | None,
        Meta(
            description=("`[width, height]`; required by `sim:`, compared with the file by `video:`; with `pixel_mm` it gives `position_m`")
        ),
    ] = None
    pixel_mm: Annotated[tuple[Positive, Positive] | None, Meta(description="`[across, along]`; without it places in mm are null")] = None
    when_full: Annotated[
        Literal["block", "drop_oldest"],
        Meta(
            description=(
                "what a full ring does: `block` makes files wait (a live camera loses what it cannot hold, which is a "
                "gap), `drop_oldest` drops and says so"
            )
        ),
    ] = "drop_oldest"
    slots: Annotated[int, Meta(ge=2, le=4096, description="frames the ring holds, 2 to 4096")] = 64
    edges: Annotated[
        Literal["none", "auto"],
        Meta(
            description=(
                "`auto`: the strip's edges are found in each frame (the strip is brighter than what is beside it); tiles"
                " beside it are not judged, and a defect whose middle is there is not reported"
            )
        ),
    ] = "none"
    ignore_px: Annotated[
        tuple[tuple[Whole, Whole, Size, Size], ...],
        Meta(description="boxes `[x, y, width, height]` of the frame that are not judged, likewise: `[[0, 0, 60, 300]]`"),
    ] = ()


class Preprocess(_Tree, frozen=True, kw_only=True):
    """How frames become tiles."""

    layout: Annotated[Literal["grid", "whole"], Meta(description="`grid`: cut tiles; `whole`: the frame is one tile")] = "grid"
    tile_px: Annotated[int, Meta(ge=16, le=4096, description="side of the square that becomes a tile (`grid`)")] = 300
    overlap_px: Annotated[Whole, Meta(description="overlap of neighbouring tiles; the last row and column are shifted inwards")] = 0
    device: Annotated[
        Literal["auto", "cpu", "gpu", "dali"],
        Meta(
            description=(
                "`cpu`: OpenCV; `gpu`: DALI on a CUDA device; `dali`: DALI on the CPU, to compare; `auto`: `gpu` where "
                "that works and the engine may run there, else `cpu`. The log says which runs"
            )
        ),
    ] = "auto"


class ClassRule(_Tree, frozen=True, kw_only=True):
    """What holds for one class of defects."""

    min_score: Annotated[Share | None, Meta(description="in place of `infer.min_score`")] = None
    min_size_px: Annotated[Whole | None, Meta(description="in place of `infer.min_size_px`")] = None


class Infer(_Tree, frozen=True, kw_only=True):
    """How tiles become verdicts."""

    model: Annotated[str, Meta(description="name of a shipped model, or path of a `.safetensors` file")]
    engine: Annotated[
        str,
        Meta(
            description=(
                "`openvino`, `onnx`, `compiled`, `eager` (below), or one of another package; `auto` is `compiled` on an "
                "NVIDIA GPU, else `openvino`"
            )
        ),
    ] = "auto"
    max_batch: Annotated[int, Meta(ge=1, le=1024, description="tiles per batch at most")] = 16
    max_wait_ms: Annotated[
        float, Meta(ge=0, le=10_000, description="how long a tile waits at most for others while the engine is busy")
    ] = 5.0
    min_score: Annotated[Share, Meta(description="score from which a tile is a defect; with a class `ok`: 1 - p(ok)")] = 0.5
    min_size_px: Annotated[Whole, Meta(description="longer side of its box, in pixels of the frame, from which a defect is reported")] = 0
    classes: Annotated[dict[str, ClassRule], Meta(description="exceptions by class: `{scratches: {min_score: 0.7, min_size_px: 30}}`")] = {}


class Publish(_Tree, frozen=True, kw_only=True):
    """Where events go."""

    redis: Annotated[
        str,
        Meta(
            description=(
                "or a `redis://`, `rediss://`, `unix://` URL; options `?db=N`, `client_name=`, and for `rediss://` "
                "`ssl_ca_certs=`, `ssl_certfile=`, `ssl_keyfile=`, `ssl_cert_reqs=`, `ssl_check_hostname=`"
            )
        ),
    ] = "embedded"
    sinks: Annotated[
        dict[Name, str], Meta(description="where events go beside Redis: `jsonl:PATH` (below), or one of another package")
    ] = {}
    password_file: Annotated[
        str | None, Meta(description="file (mode 0600) with the password; or the variable `LINEPIPE_REDIS_PASSWORD`")
    ] = None
    keep_days: Annotated[
        Positive, Meta(description="how long events that every sink has confirmed stay in spool and stream, in days that the line ran")
    ] = 7.0
    keep_mib: Annotated[
        Positive, Meta(description="memory that the embedded server's stream may take; beyond it the oldest entries go, read or not")
    ] = 512.0
    images_mb: Annotated[
        Positive, Meta(description="disk that the images of defects (the tile that shows each best) may take; the oldest go first")
    ] = 1000.0


class Limits(_Tree, frozen=True, kw_only=True):
    """What a single frame may cost; beyond it the frame is invalid."""

    max_pixels: Annotated[
        Size, Meta(description="larger images are `invalid(too_large)`, as their header says; a video of larger frames is refused")
    ] = 50_000_000
    max_file_bytes: Annotated[Size, Meta(description="likewise for files")] = 32 << 20


Stage = Literal["preprocess", "infer"]


class Config(_Tree, frozen=True, kw_only=True):
    """A whole line."""

    line: Annotated[Name, Meta(description="name: lower-case letters, digits, `-` and `_`, at most 32 characters; starts with a letter")]
    cameras: Annotated[dict[Name, Camera], Meta(min_length=1, description="the cameras by name")]
    preprocess: Preprocess = Preprocess()
    infer: Infer
    publish: Publish = Publish()
    limits: Limits = Limits()
    placement: Annotated[dict[Name, list[Stage]], Meta(description="which stages share a process, by process name")] = msgspec.field(
        default_factory=lambda: {"inspect": ["preprocess", "infer"]}
    )
    state_dir: Annotated[
        str,
        Meta(
            description=(
                "folder for what must last: spool, images, the embedded server's data, converted and compiled models; it "
                "belongs to one line, by name"
            )
        ),
    ]

    @property
    def stream(self) -> str:
        """Key of the line's Redis stream, and name of its Pub/Sub channel."""
        return f"linepipe:{self.line}:events"

    @property
    def state(self) -> Path:
        """``state_dir`` as an absolute path. Raises ``OSError`` if it is relative and the working directory is gone."""
        return Path(self.state_dir).absolute()

    def digest(self) -> str:
        """Short digest (12 hexadecimal digits) of the line's name and its state folder; the name of the line's runtime folder."""
        return hashlib.sha256(f"{self.line}\0{self.state}".encode()).hexdigest()[:12]
