"""The reference engineer: a client of the MCP server that plays a policy, or a language model, and writes the report.

It uses the same tools as any chat client and has no other way into the server. llm/ is the engineer that is a
language model; report/ is what a drive leaves behind.
"""
