"""``python -m pipeline``: the same as ``linepipe``."""

from pipeline.cli import main

main()
