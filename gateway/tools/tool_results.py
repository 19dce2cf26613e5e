"""What a tool returned, as content of a `tool_result` block for the model.

Owns: turning MCP's content into Anthropic's. Pure: JSON values in, JSON values out, and nothing in them raises.
MCP: https://modelcontextprotocol.io/specification/2025-11-25/server/tools#tool-result;
Anthropic: https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use#handling-tool-use-and-tool-result-content-blocks.

The API refuses a whole request for one blank text, one broken image, one image that is of another kind than it says,
or an image in an error. So blank texts are dropped, what an image or PDF is, its own first bytes tell, and errors are
text alone.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "The tool returned nothing."
UNREADABLE = "The tool's result cannot be read."
# Anthropic takes images of up to 5 MB, as base64; all images and PDFs of one result together may have as much.
LARGEST_ATTACHMENTS_BYTES = 5_000_000
_MOST_BLOCKS = 100

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Converted:
    """Content blocks, never none, and whether they tell of an error."""

    content: Sequence[Block] = field(repr=False)
    is_error: bool


def text_content(text: str) -> Sequence[Block]:
    """The content that is this text alone."""
    return [_text(text)]


def converted(result: object, max_bytes: int) -> Converted:
    """The content of a `CallToolResult`, a JSON value.

    Of its texts the first `max_bytes` of UTF-8 are kept; a note says what was cut off. Images and PDFs have a limit of
    their own, `LARGEST_ATTACHMENTS_BYTES`. Audio, and what else cannot be passed on, makes the result an error that
    says so, with the texts beside it; an error holds nothing but text.
    """
    if not isinstance(result, Mapping) or not isinstance(result.get("content", []), list):
        return Converted(text_content(UNREADABLE), True)
    content = result.get("content", [])
    page = _Page(max_bytes)
    for item in content[:_MOST_BLOCKS]:
        page.add(item)
    if len(content) > _MOST_BLOCKS:
        page.note(f"[{len(content) - _MOST_BLOCKS} more parts of the tool's result are left out.]")
    structured = result.get("structuredContent")
    if structured is not None and not page.has_text:
        page.add_text(json.dumps(structured, ensure_ascii=False))
    is_error = page.has_refused or result.get("isError") is True
    return Converted(_texts_alone(page.blocks()) if is_error else page.blocks(), is_error)


class _Page:
    """The blocks so far, and how much room is left."""

    def __init__(self, max_bytes: int) -> None:
        self._blocks: list[Block] = []
        self._left_bytes = max_bytes
        self._cut_bytes = 0
        self._left_attachment_bytes = LARGEST_ATTACHMENTS_BYTES
        self.has_text = False
        self.has_refused = False

    def blocks(self) -> list[Block]:
        """All blocks, and at the end what was cut off."""
        if self._cut_bytes:
            self.note(f"[Cut off: {self._cut_bytes} more bytes of the tool's result are over the gateway's limit.]")
        return self._blocks or [_text(NOTHING)]

    def add(self, item: object) -> None:
        """Add one item of MCP's content."""
        add = _ADDERS.get(_string(item, "type")) if isinstance(item, Mapping) else None
        if add is not None and isinstance(item, Mapping):
            add(self, item)
        else:
            self.refuse("[A part of the tool's result is of an unknown kind and cannot be passed on.]")

    def add_text(self, text: str) -> None:
        """Add as much of a text as there is room for."""
        encoded = text.encode("utf-8", "replace")
        kept = encoded[: self._left_bytes].decode("utf-8", "ignore")
        self._left_bytes -= min(self._left_bytes, len(encoded))
        self._cut_bytes += len(encoded) - len(kept.encode())
        if kept.strip():
            self._blocks.append(_text(kept))
            self.has_text = True

    def add_binary(self, data: object, what: str) -> None:
        """Add an image or a PDF; `what` names it if it is neither."""
        decoded = _decoded(data)
        made = _attachment(decoded) if decoded is not None else None
        if made is None:
            self.refuse(f"[{what}, which cannot be passed on.]")
            return
        size = len(made["source"]["data"])
        if size > self._left_attachment_bytes:
            self.note(f"[{what} of {size} bytes is over the limit of {LARGEST_ATTACHMENTS_BYTES} and left out.]")
            return
        self._left_attachment_bytes -= size
        self._blocks.append(made)

    def note(self, text: str) -> None:
        """Add words of the gateway's own, which always have room."""
        self._blocks.append(_text(text))

    def refuse(self, text: str) -> None:
        """Add a note of something that makes the result an error."""
        self.note(text)
        self.has_refused = True


def _texts_alone(blocks: Sequence[Block]) -> list[Block]:
    """The blocks of an error: the API refuses a request that has anything but text there."""
    left_out = "[{} is left out: a result that is an error can only be text.]"
    named = {"image": "An image", "document": "A PDF"}
    return [block if block["type"] == "text" else _text(left_out.format(named[block["type"]])) for block in blocks]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _decoded(data: object) -> bytes | None:
    if not isinstance(data, str):
        return None
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _attachment(data: bytes) -> Block | None:
    """The block for an image or a PDF, of whichever kind its first bytes say; None if it is neither."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind, media_type = "image", "image/png"
    elif data.startswith(b"\xff\xd8\xff"):
        kind, media_type = "image", "image/jpeg"
    elif data.startswith((b"GIF87a", b"GIF89a")):
        kind, media_type = "image", "image/gif"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind, media_type = "image", "image/webp"
    elif data.startswith(b"%PDF-"):
        kind, media_type = "document", "application/pdf"
    else:
        return None
    source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}
    return {"type": kind, "source": source}


def _add_text(page: _Page, item: Mapping[str, Any]) -> None:
    page.add_text(_string(item, "text"))


def _add_image(page: _Page, item: Mapping[str, Any]) -> None:
    page.add_binary(item.get("data"), f"An image ({_word(item, 'mimeType')})")


def _add_audio(page: _Page, item: Mapping[str, Any]) -> None:
    page.refuse(f"[The tool returned audio ({_word(item, 'mimeType')}), which models cannot be given.]")


def _add_link(page: _Page, item: Mapping[str, Any]) -> None:
    described = "".join(f"\n{text}" for text in (_string(item, "title"), _string(item, "description")) if text.strip())
    kind = f" ({_word(item, 'mimeType')})" if item.get("mimeType") else ""
    page.add_text(f"Resource {_string(item, 'name')}: {_string(item, 'uri')}{kind}{described}")


def _add_resource(page: _Page, item: Mapping[str, Any]) -> None:
    resource = item.get("resource")
    if not isinstance(resource, Mapping):
        page.refuse("[A resource without contents cannot be passed on.]")
        return
    named = f"Resource {_string(resource, 'uri')}"
    if isinstance(resource.get("text"), str):
        page.add_text(f"{named}:\n{resource['text']}")
        return
    data = _decoded(resource.get("blob"))
    text = _as_text(data) if data is not None and _is_textual(_word(resource, "mimeType")) else None
    if text is not None:
        page.add_text(f"{named}:\n{text}")
    else:
        page.add_text(named)
        page.add_binary(resource.get("blob"), f"Its contents ({_word(resource, 'mimeType')})")


_ADDERS: dict[str, Callable[[_Page, Mapping[str, Any]], None]] = {
    "text": _add_text,
    "image": _add_image,
    "audio": _add_audio,
    "resource_link": _add_link,
    "resource": _add_resource,
}


def _is_textual(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("/json", "+json", "/xml", "+xml", "/yaml", "/javascript"))


def _as_text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _string(item: Mapping[str, Any], member: str) -> str:
    value = item.get(member)
    return value if isinstance(value, str) else ""


def _word(item: Mapping[str, Any], member: str) -> str:
    """A short value that may stand in one of the gateway's own sentences."""
    return _string(item, member)[:100] or "of unknown kind"
