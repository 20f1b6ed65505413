"""What a line begins with, kept under ``state_dir``: its configuration and its model.

Nodes read these copies and nothing else. So one that is restarted works as before, whatever has become of the files.
"""

from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.model_file import digest, find_model
from pipeline.private import write_private


def take_snapshot(config: Config) -> tuple[Path, str]:
    """Write both; returns the path of the configuration and the digest of the model. Raises ``ConfigError``."""
    source, model, line = find_model(config.infer.model), config.state / "model.safetensors", config.state / "line.json"
    own = msgspec.structs.replace(config, infer=msgspec.structs.replace(config.infer, model=str(model)))
    try:
        weights = source.read_bytes()
    except OSError as exc:
        raise ConfigError(f"infer.model: {source} cannot be read: {exc.strerror}") from exc
    try:
        for path, data in ((model, weights), (line, msgspec.json.encode(own))):
            if not path.is_file() or path.read_bytes() != data:
                write_private(path, data)
    except OSError as exc:
        raise ConfigError(f"state_dir: {config.state} cannot be written: {exc.strerror}") from exc
    return line, digest(model)
