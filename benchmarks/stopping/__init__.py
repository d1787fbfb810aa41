"""Early stopping replayed over recorded curves: the rules, the replay, the page.

Nothing is trained here. The rule that the server uses is server/study/early_stop.py; others are here to compare.
"""
