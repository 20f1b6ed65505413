"""``linepipe schema``"""

import json
from typing import Any

import click
import msgspec

from pipeline.config import Config
from pipeline.config.plugins import ENGINES
from pipeline.core import events


@click.command()
@click.argument("what", type=click.Choice(["config", "events"]))
def schema(what: str) -> None:
    """Print the JSON Schema of the configuration or of the events.

    Example: linepipe schema events > events.schema.json
    """
    click.echo(json.dumps(events.schema() if what == "events" else config_schema(), indent=2))


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file, with the plug-ins that are installed here."""
    (root,), components = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    components["Infer"]["properties"]["engine"]["enum"] = ["auto", *ENGINES.names()]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "linepipe line", **root, "$defs": components}
