"""How a trial ended, from the result that the child wrote, the exit that the executor saw, and any cancellation."""

from __future__ import annotations

from dataclasses import dataclass

from server.executors.base import Exit
from trainers.contract.wire import Epoch, Outcome, TrialResult


@dataclass(frozen=True)
class Traces:
    """What a training has left behind. `written` is the result that it wrote, if any."""

    trial_id: str
    metric: str
    threads: int
    written: TrialResult | None
    epochs: tuple[Epoch, ...]
    checkpoint: bool


def outcome(traces: Traces, exit: Exit | None, cancelled: bool) -> TrialResult | None:
    """The trial's result; None if the attempt was interrupted and the trial may be tried again.

    A child that is asked to end writes `cancelled`, whatever the reason. That stands only if the trial was cancelled.
    After the deadline it becomes `timed_out`, and if the owner ended it is not a result.
    """
    written = traces.written
    late = exit is not None and exit.cause == "timed_out"
    if written is not None and (written.status != "cancelled" or cancelled or late):
        changes: dict[str, object] = {}
        if written.status == "cancelled" and not cancelled:
            changes = {"status": "timed_out", "message": exit.message if exit else ""}
        if written.peak_memory_mb is None and exit is not None:
            changes["peak_memory_mb"] = exit.peak_memory_mb
        return written.model_copy(update=changes)
    if cancelled:
        return without_result(traces, "cancelled", "")
    if exit is None or exit.cause == "killed" or written is not None:
        return None
    if exit.cause == "timed_out":
        return _timed_out(traces, exit)
    if exit.cause == "result":
        return without_result(traces, "crashed", "The result was gone when it was to be read.", exit)
    return without_result(traces, exit.cause, exit.message, exit)


def without_result(traces: Traces, status: Outcome, message: str, exit: Exit | None = None) -> TrialResult:
    """The result of a training that wrote none: number and time of its epochs, no metrics."""
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
    """Includes metrics only if there is a checkpoint with their weights: otherwise the trial could never be chosen."""
    result = without_result(traces, "timed_out", exit.message, exit)
    if not traces.checkpoint or not traces.epochs:
        return result
    best = max(traces.epochs, key=lambda epoch: epoch.validation.get(traces.metric, float("-inf")))
    return result.model_copy(update={"validation": best.validation, "best_epoch": best.epoch})
