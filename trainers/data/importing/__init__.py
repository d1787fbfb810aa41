"""Imports a file of interactions as a stored dataset: detects its format and columns, reads it and cleans it.

add.py is the door. The stored form and everything that is done with it later is in trainers/data.
"""
