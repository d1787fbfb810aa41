"""owner.json: where the owner of a home listens, what kind of owner it is, and whether its process is alive."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainers.contract.regular_files import read_regular

_MOST_BYTES = 65_536
Kind = Literal["detached", "foreground"]


class Owner(BaseModel):
    """Where the owner of a home listens, and the private token that it accepts."""

    model_config = ConfigDict(frozen=True)

    pid: int = Field(gt=0, lt=2**31)
    create_time: Annotated[float, Field(allow_inf_nan=False)]
    host: str
    port: int = Field(gt=0, lt=2**16)
    token: str
    version: str
    started: str
    page_token: str = ""
    """Token of the study page, which may only read."""
    kind: Kind | None = None
    """Whether a client started it and idleness ends it, or a user did with `serve --http`; None in earlier versions."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def __repr__(self) -> str:
        return f"Owner(pid={self.pid}, url={self.url!r})"

    __str__ = __repr__


def read_owner(path: Path) -> Owner | None:
    """The owner that a file describes; None where there is none, or where the file holds something else.

    A pipe or a link in its place is neither waited for nor followed. Raises OSError.
    """
    try:
        return Owner.model_validate_json(read_regular(path, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EFBIG):  # a link, no file, or far too long
            return None
        raise


def is_running(pid: int, create_time: float) -> bool:
    """Whether that very process is alive: process ids are reused, start times are not."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
