"""Training on the GPU."""

import os
import statistics
import time
from typing import Any

from benchmarks.gpu.item import Result, Where


def training(where: Where) -> None:
    """A whole run of the full recipe: 16 epochs of NEU, judged on the way, or of noise without NEU; on a CPU one epoch of noise.

    Sets TORCHINDUCTOR_CACHE_DIR of this process.
    """
    from ilcs_model.data.dataset import open_dataset
    from ilcs_model.training.run import train
    from ilcs_model.training.settings import SMALL_UNTIL, Settings

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(where.cache / "engines" / "inductor")
    began = time.monotonic()
    length: Any = {"epochs": 16} if where.on_gpu else {"epochs": 1, "norm_images": 16}
    settings = Settings(**length, batch=64 if where.on_gpu else 16)
    data = open_dataset(where.images() or where.noise())
    epochs: list[Result] = []
    found: Result = {"data": data.root.name, "settings": length, "remarks": [], "epochs": epochs}

    def report(record: Result) -> None:
        if "remark" in record:
            found["remarks"].append(record["remark"])
        elif "done" not in record:
            epochs.append(
                {key: record[key] for key in ("loss", "seconds", "images_per_s", "loader_share", "judged_accuracy") if key in record}
            )
            found["since_start_s"] = round(time.monotonic() - began, 1)
            where.keep(found)

    train(data, where.folder("run") / "run", settings, report=report)
    small = int(SMALL_UNTIL * len(epochs))
    found |= {"whole_run_s": round(time.monotonic() - began, 1), "crops": _pace(epochs[1:small]), "whole_tiles": _pace(epochs[small + 1 :])}
    where.keep(found)


def _pace(epochs: list[Result]) -> Result:
    """Medians over epochs, the first left out: it compiles."""
    return {key: round(statistics.median(e[key] for e in epochs), 3) for key in ("images_per_s", "loader_share") if epochs}
