"""Where the tiles of a frame lie. Integers only; pure."""

from pipeline.stage import Box


def grid(width: int, height: int, tile: int, overlap: int) -> tuple[tuple[Box, ...], int]:
    """Boxes that cover a frame, row by row, and how many a row has.

    Neighbours overlap by ``overlap``; the last row and column are shifted inwards, so that no pixel is left out. A
    frame smaller than a tile is one box of its own size in that direction.
    """
    xs, ys = _starts(width, tile, overlap), _starts(height, tile, overlap)
    w, h = min(tile, width), min(tile, height)
    return tuple((x, y, w, h) for y in ys for x in xs), len(xs)


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]
