"""The page that shows studies live: its routes and its HTML.

It shows the answers of server/views and the pictures of server/charts, and computes nothing of its own.
"""
