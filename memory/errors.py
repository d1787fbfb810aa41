"""The exceptions of memory: MemoryFault, with the subclass MemoryLocked and an Unknown… for each kind of id."""

from __future__ import annotations


class MemoryFault(ValueError):
    """Memory cannot do what was requested. The message says in one line what was wrong and what to do next."""


class UnknownStudy(MemoryFault):
    """No study has this id."""

    def __init__(self, study_id: str) -> None:
        super().__init__(f"Unknown study {study_id!r}; read_memory without arguments lists the studies there are.")


class UnknownTrial(MemoryFault):
    """No trial has this id."""

    def __init__(self, trial_id: str) -> None:
        super().__init__(f"Unknown trial {trial_id!r}; read_memory lists the trials there are.")


class UnknownNote(MemoryFault):
    """No note has this id."""

    def __init__(self, note_id: str) -> None:
        super().__init__(f"Unknown note {note_id!r}; read_memory lists the notes there are.")


class UnknownAttempt(MemoryFault):
    """No attempt has this id."""

    def __init__(self, attempt_id: str) -> None:
        super().__init__(f"Unknown attempt {attempt_id!r}.")


class MemoryLocked(MemoryFault):
    """Another process, or another Memory in this process, holds the file; `pid` is None where it is unknown."""

    def __init__(self, path: str, pid: int | None) -> None:
        self.pid = pid
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{path} is held by {holder}: use that one, or stop it with `virtualmle stop`.")
