"""``linepipe schema``"""

import json
from typing import Any

import click

from pipeline.config import Config
from pipeline.config.plugins import ENGINES
from pipeline.core import events
from pipeline.core.status import LineStatus, Summary, json_schema


@click.command()
@click.argument("what", type=click.Choice(["config", "events", "status", "summary"]))
def schema(what: str) -> None:
    """Print the JSON Schema of the configuration, the events, the status or the summary.

    Example: linepipe schema events > events.schema.json
    """
    kinds = {"events": (events.Event, "event"), "status": (LineStatus, "status"), "summary": (Summary, "summary")}
    found = config_schema() if what == "config" else json_schema(kinds[what][0], f"linepipe {kinds[what][1]}")
    click.echo(json.dumps(found, indent=2))


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file, with the plug-ins that are installed here."""
    found = json_schema(Config, "linepipe line")
    found["$defs"]["Infer"]["properties"]["engine"]["enum"] = ["auto", *ENGINES.names()]
    return found
