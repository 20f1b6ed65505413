"""``python -m pipeline``: the same as ``linepipe``."""

from pipeline.cli.main import main

main()
