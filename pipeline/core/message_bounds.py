"""Upper bounds of numbers, texts and lists in messages. They are wide: no correct sender comes near, and what exceeds one is refused.

They are checked when a message is decoded, not when one is made.
"""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
"""A counter without a limit of its own, or a time in ns."""
Number = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Word = Annotated[str, Meta(min_length=1, max_length=128)]
"""Name of a node or camera, id of a process's life or of an epoch."""
Reason = Annotated[str, Meta(max_length=64)]
Label = Annotated[str, Meta(min_length=1, max_length=255)]
Key = Annotated[str, Meta(min_length=1, max_length=1024)]
Text = Annotated[str, Meta(max_length=1 << 16)]
Score = Annotated[float, Meta(ge=-1, le=2)]
"""0..1, apart from rounding; not-a-number is refused."""
MANY = Meta(max_length=1 << 16)
IMAGE = Meta(max_length=1 << 28)
