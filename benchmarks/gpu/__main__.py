"""One item, in this process: ``python -m benchmarks.gpu NAME --out FILE --cache DIR``. ``benchmarks.gpu_all`` runs them all.

An item keeps what it has found after every figure, before the next is measured.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu import about, checks, engine, line, training
from benchmarks.gpu.item import Result, Where

ITEMS: dict[str, Callable[[Where], None]] = {
    "about": about.about,
    "preprocess": checks.preprocess,
    "tests-dali": checks.tests_dali,
    "compile": engine.compile_line,
    "line-demo-dali": line.demo_dali,
    "line-large-dali": line.large_dali,
    "line-large": line.large,
    "line-demo": line.demo,
    "line-flood": line.flood,
    "engine-line": engine.engine_line,
    "tests-training": checks.tests_training,
    "training": training.training,
    "engine-neu": engine.engine_neu,
    "parity": checks.parity,
    "tests-engine": checks.tests_engine,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ITEMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()

    def keep(found: Result) -> None:
        part = args.out.with_suffix(".part")
        part.write_text(json.dumps(found))
        os.replace(part, args.out)

    ITEMS[args.name](Where(args.device, args.cache, keep))


if __name__ == "__main__":
    main()
