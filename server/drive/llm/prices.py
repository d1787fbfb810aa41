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
        """US dollars for these numbers of tokens."""
        return (read * self.read + written * self.written) / 1e6


_PRICES = TypeAdapter(dict[str, Price])


def price_of(model: str, file: Path | None = None) -> Price | None:
    """The price of the longest name that `model` begins with, or None. Raises PlanError for a bad file."""
    try:
        shipped = resources.files("server.drive.llm") / "prices.yaml"
        text = (file or shipped).read_text(encoding="utf-8")
        prices = _PRICES.validate_python(yaml.safe_load(text) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise PlanError(
            f"--prices {file} is no list of `model: {{read: DOLLARS, written: DOLLARS}}`: {reason}."
        ) from None
    name = max((name for name in prices if model.startswith(name)), key=len, default=None)
    return prices[name] if name is not None else None
