"""How large what travels between processes may be. Wide: no correct sender comes near, and what is beyond it is refused.

Decoding checks them; making a message does not.
"""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
"""A number that grows for ever, or ns."""
Number = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Word = Annotated[str, Meta(min_length=1, max_length=128)]
"""The name of a node, a life, an epoch."""
Reason = Annotated[str, Meta(max_length=64)]
Label = Annotated[str, Meta(min_length=1, max_length=255)]
Key = Annotated[str, Meta(min_length=1, max_length=1024)]
Text = Annotated[str, Meta(max_length=1 << 16)]
Score = Annotated[float, Meta(ge=-1, le=2)]
"""0..1 but for rounding; a number that is none is refused."""
MANY = Meta(max_length=1 << 16)
IMAGE = Meta(max_length=1 << 28)
