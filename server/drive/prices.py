"""What a model's tokens cost, from a YAML file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.drive.plan import PlanError


class Price(BaseModel):
    """US dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: float = Field(ge=0)
    written: float = Field(ge=0)

    def of(self, read: int, written: int) -> float:
        """Dollars for so many tokens."""
        return (read * self.read + written * self.written) / 1e6


_PRICES = TypeAdapter(dict[str, Price])


def price_of(model: str, file: Path | None = None) -> Price | None:
    """That of the longest name which `model` begins with; None where none does. Raises PlanError for a bad file."""
    try:
        shipped = resources.files("server.drive") / "prices.yaml"
        text = (file or shipped).read_text(encoding="utf-8")
        known = _PRICES.validate_python(yaml.safe_load(text) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        said = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise PlanError(
            f"--prices {file} is no list of `model: {{read: DOLLARS, written: DOLLARS}}`: {said}."
        ) from None
    name = max((name for name in known if model.startswith(name)), key=len, default=None)
    return known[name] if name is not None else None
