"""Queued and running trials: queue, slots and GPUs, run directories, cancellation, crash recovery, the sealed test.

Trials enter through `Scheduler.submit` of scheduler.submission. server/study decides which trial is admitted and what
its result means; server/executors starts the child processes.
"""
