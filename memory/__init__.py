"""What stays: studies, trials and what was learned, in one DuckDB file that one owner process holds.

Memory in store.py is the only way in. Each method is one transaction, called off the event loop (off_loop.py).
Nothing here decides what is trained or how an answer is worded.
"""
