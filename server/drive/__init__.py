"""The reference engineer: a client of the MCP server that plays a policy and writes the report."""
