"""Advice for studies from memory: starting configurations, beliefs about fields, open questions, lessons learned.

Reads only. What a claim's evidence says is computed in memory/claims; how advice is worded, in server/views.
"""
