"""The texts in what a server answers, which a test expects to hold nothing but text."""

from __future__ import annotations

from mcp.types import CallToolResult, ContentBlock, ReadResourceResult, TextContent, TextResourceContents


def text(answer: CallToolResult) -> str:
    """Of a tool."""
    return " ".join(text_in(block) for block in answer.content)


def text_in(block: ContentBlock) -> str:
    """Of one part of an answer, or of a prompt's message."""
    assert isinstance(block, TextContent), block
    return block.text


def resource_text(found: ReadResourceResult) -> str:
    """Of a resource."""
    (content,) = found.contents
    assert isinstance(content, TextResourceContents), content
    return content.text
