"""The configuration of a line: its keys, how it is read, the model file and plug-ins it names, and which processes it asks for."""

from pipeline.config.read import MAX_FILE_BYTES, load
from pipeline.config.schema import (
    Camera,
    ClassRule,
    Config,
    Infer,
    Limits,
    Preprocess,
    Publish,
)

__all__ = ["MAX_FILE_BYTES", "Camera", "ClassRule", "Config", "Infer", "Limits", "Preprocess", "Publish", "load"]
