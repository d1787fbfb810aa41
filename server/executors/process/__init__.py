"""Trials as child processes of the owner: started cold, or forked from a worker that has torch loaded already.

The child's own code is trainers/child; here is how it is started, watched and ended.
"""
