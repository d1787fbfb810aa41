"""Packs: what one home has learned, exported so that another home can check it.

The pack that every new home starts with is in shipped/. A pack holds claims and their evidence, never user data.
"""
