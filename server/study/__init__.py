"""What a study admits and decides: standings, verdicts, admission, guardrails, diagnosis, early stopping, opening.

Functions over records. Nothing here starts a process or chooses the words of an answer.
"""
