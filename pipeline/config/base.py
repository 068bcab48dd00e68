"""What all sections of the configuration share."""

import dataclasses
from typing import Any

from pydantic import ConfigDict

RESOURCE = {"resource": True}
"""Metadata of a field that says how a stage is run, not what it computes."""
STRICT = ConfigDict(extra="forbid", strict=True)
"""No unknown key, and no conversion of types."""


def identity(section: Any) -> dict[str, Any]:
    """The fields of ``section`` that decide what a stage computes."""
    values = dataclasses.asdict(section)
    resources = {f.name for f in dataclasses.fields(section) if f.metadata.get("resource")}
    return {name: value for name, value in values.items() if name not in resources}
