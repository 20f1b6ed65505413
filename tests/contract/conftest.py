"""What several contract tests start, and stop afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.contract.post import Post


@pytest.fixture
def post(tmp_path: Path, server: Server) -> Iterator[Post]:
    found = Post(tmp_path, server)
    yield found
    found.sink.stop()
    found.spool.close()
    assert found.sink.failed is None
