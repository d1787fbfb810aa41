"""Every number that the README and docs claim, with the command that gives it again.

Each module here is one published command. What several of them share is in harness, peers, replay and stopping.
"""
