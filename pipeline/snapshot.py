"""What a line begins with, kept under ``state_dir``: its configuration and its model.

Nodes read these copies and nothing else. So one that is restarted works as before, whatever has become of the files.
"""

import io

import msgspec

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.model_file import digest_of, find_model


class Snapshot:
    """Both, read once. Raises ``ConfigError`` for a model that cannot be read."""

    def __init__(self, config: Config) -> None:
        source, model, self.line = find_model(config.infer.model), config.state / "model.safetensors", config.state / "line.json"
        own = msgspec.structs.replace(config, infer=msgspec.structs.replace(config.infer, model=str(model)))
        try:
            weights = source.read_bytes()
        except OSError as exc:
            raise ConfigError(f"infer.model: {source} cannot be read: {exc.strerror}") from exc
        self.files = {model: weights, self.line: msgspec.json.encode(own)}
        """By path, what nodes must find there."""
        self.digests = {path: digest_of(io.BytesIO(data)) for path, data in self.files.items()}
        self.model = model
