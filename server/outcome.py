"""How a trial ended: what the child wrote, what was seen from outside, and what was asked for, made one outcome."""

from __future__ import annotations

from dataclasses import dataclass

from server.executors.base import Exit
from trainers.spec import Epoch, Outcome, TrialResult


@dataclass(frozen=True)
class Traces:
    """What is left of a training. `written` is its own result, if it came to that."""

    trial_id: str
    metric: str
    threads: int
    written: TrialResult | None
    epochs: tuple[Epoch, ...]
    checkpoint: bool


def outcome(traces: Traces, exit: Exit | None, asked_to_cancel: bool) -> TrialResult | None:
    """The trial's result, or None: the attempt was interrupted and the trial may be tried again.

    A child that is asked to end writes `cancelled`, whoever asked. It counts as that only where the trial was
    cancelled; after the deadline it is `timed_out`, and when the owner ends it is no result.
    """
    written = traces.written
    late = exit is not None and exit.cause == "timed_out"
    if written is not None and (written.status != "cancelled" or asked_to_cancel or late):
        changes: dict[str, object] = {}
        if written.status == "cancelled" and not asked_to_cancel:
            changes = {"status": "timed_out", "message": exit.message if exit else ""}
        if written.peak_memory_mb is None and exit is not None:
            changes["peak_memory_mb"] = exit.peak_memory_mb
        return written.model_copy(update=changes)
    if asked_to_cancel:
        return without_result(traces, "cancelled", "")
    if exit is None or exit.cause == "killed" or written is not None:
        return None
    if exit.cause == "timed_out":
        return _timed_out(traces, exit)
    if exit.cause == "result":
        return without_result(traces, "crashed", "The result was gone when it was to be read.", exit)
    return without_result(traces, exit.cause, exit.message, exit)


def without_result(traces: Traces, status: Outcome, message: str, exit: Exit | None = None) -> TrialResult:
    """The books of a training that left none of its own: its epochs' count and time, no metrics."""
    return TrialResult(
        trial_id=traces.trial_id,
        status=status,
        message=message,
        epochs=len(traces.epochs),
        seconds=sum(epoch.seconds for epoch in traces.epochs),
        eval_seconds=sum(epoch.eval_seconds for epoch in traces.epochs),
        peak_memory_mb=exit.peak_memory_mb if exit else None,
        threads=traces.threads,
    )


def _timed_out(traces: Traces, exit: Exit) -> TrialResult:
    """Metrics only with the weights that they are of: without a checkpoint the trial could never be chosen."""
    result = without_result(traces, "timed_out", exit.message, exit)
    if not traces.checkpoint or not traces.epochs:
        return result
    best = max(traces.epochs, key=lambda epoch: epoch.validation.get(traces.metric, float("-inf")))
    return result.model_copy(update={"validation": best.validation, "best_epoch": best.epoch})
