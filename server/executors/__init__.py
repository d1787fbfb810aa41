"""Where trainings run: one contract (base.py), and one folder for each way to keep it.

An executor starts a child on a prepared run directory and says how the process ended. Which trial runs next, and what
its result means, is decided in server/scheduler.
"""
