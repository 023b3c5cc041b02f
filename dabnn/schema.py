"""What the configs of experiments and the configs of models have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")

Name = Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
"""Names become names of files and folders."""
