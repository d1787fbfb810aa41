"""Statistics of scores: seed noise, comparisons, bootstrap over users, effects of changes, similar datasets.

Pure functions over numbers and records: nothing here reads the database. Which scores are compared is decided in
server/study and memory/claims.
"""
