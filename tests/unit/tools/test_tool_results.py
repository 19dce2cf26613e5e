"""What a tool returned, as the model gets it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tools.tool_results import LARGEST_ATTACHMENTS_BYTES, NOTHING, UNREADABLE, converted

PNG, JPEG = b"\x89PNG\r\n\x1a\n" + b"p" * 20, b"\xff\xd8\xff" + b"j" * 20
GIF, WEBP, PDF = b"GIF89a" + b"g" * 20, b"RIFF....WEBPVP8 ", b"%PDF-1.7 ..."


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(data: bytes, media_type: str) -> dict[str, Any]:
    return {"type": "image", "data": encoded(data), "mimeType": media_type}


def blob(data: bytes, media_type: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": "f:///x", "blob": encoded(data), "mimeType": media_type}}


def attached(kind: str, data: bytes, media_type: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": encoded(data)}}


def convert(*content: object, max_bytes: int = 1000, **more: object):
    made = converted({"content": list(content), **more}, max_bytes)
    assert made.content
    return list(made.content), made.is_error


LINK = {"type": "resource_link", "name": "n", "uri": "f:///y", "mimeType": "text/csv", "description": "rows"}
GOOD = [
    pytest.param([text("a"), text("b")], [text("a"), text("b")], id="texts"),
    pytest.param([text(""), text(" \n"), text("a")], [text("a")], id="blank-texts-are-dropped"),
    pytest.param([], [text(NOTHING)], id="nothing"),
    pytest.param([text("")], [text(NOTHING)], id="nothing-but-blank"),
    pytest.param([image(PNG, "image/png")], [attached("image", PNG, "image/png")], id="png"),
    pytest.param([image(JPEG, "image/jpeg")], [attached("image", JPEG, "image/jpeg")], id="jpeg"),
    pytest.param([image(GIF, "image/gif")], [attached("image", GIF, "image/gif")], id="gif"),
    pytest.param([image(WEBP, "image/webp")], [attached("image", WEBP, "image/webp")], id="webp"),
    pytest.param(
        [image(PNG, "image/jpeg")], [attached("image", PNG, "image/png")], id="image-of-another-kind-than-said"
    ),
    pytest.param(
        [{"type": "image", "data": encoded(PNG)[:8] + "\n" + encoded(PNG)[8:]}],
        [attached("image", PNG, "image/png")],
        id="base64-in-lines",
    ),
    pytest.param(
        [{"type": "resource", "resource": {"uri": "f:///x", "text": "hello"}}],
        [text("Resource f:///x:\nhello")],
        id="text-resource",
    ),
    pytest.param([blob(b"hello", "text/csv")], [text("Resource f:///x:\nhello")], id="text-as-blob"),
    pytest.param(
        [blob(PNG, "image/png")], [text("Resource f:///x"), attached("image", PNG, "image/png")], id="image-resource"
    ),
    pytest.param(
        [blob(PDF, "application/pdf")],
        [text("Resource f:///x"), attached("document", PDF, "application/pdf")],
        id="pdf-resource",
    ),
    pytest.param([LINK], [text("Resource n: f:///y (text/csv)\nrows")], id="resource-link"),
]
REFUSED = [
    pytest.param({"type": "audio", "data": encoded(b"la"), "mimeType": "audio/wav"}, "audio (audio/wav)", id="audio"),
    pytest.param(image(b"<svg/>", "image/svg+xml"), "An image (image/svg+xml)", id="svg"),
    pytest.param({"type": "image", "data": "!!!", "mimeType": "image/png"}, "An image (image/png)", id="no-base64"),
    pytest.param({"type": "image"}, "An image (of unknown kind)", id="image-without-data"),
    pytest.param({"type": "image", "data": ""}, "An image", id="empty-image"),
    pytest.param(blob(b"\x00\xff", "application/zip"), "Its contents (application/zip)", id="zip"),
    pytest.param(blob(b"\xff\xfe", "text/plain"), "Its contents (text/plain)", id="text-that-is-none"),
    pytest.param({"type": "resource"}, "A resource without contents", id="resource-without-contents"),
    pytest.param({"type": "hologram"}, "of an unknown kind", id="unknown-kind"),
    pytest.param({"type": ["text"]}, "of an unknown kind", id="kind-that-is-no-text"),
    pytest.param("text", "of an unknown kind", id="no-object"),
]


@pytest.mark.parametrize(("content", "expected"), GOOD)
def test_content_is_passed_on(content, expected):
    """Given content that models take, then it is there in their form, in order, and it is no error."""
    assert convert(*content) == (expected, False)


@pytest.mark.parametrize(("item", "words"), REFUSED)
def test_what_cannot_be_passed_on_is_an_error_that_says_so(item, words):
    """Given content that models do not take, then the result is an error, and what stands beside it is kept."""
    content, is_error = convert(text("before"), item, text("after"))
    assert is_error
    assert (content[0], content[-1]) == (text("before"), text("after"))
    assert words in "".join(block["text"] for block in content)


@pytest.mark.parametrize(
    ("items", "is_said"),
    [
        pytest.param([image(PNG, "image/png")], True, id="the-tools-error"),
        pytest.param([image(PNG, "image/png"), {"type": "audio"}], False, id="beside-audio"),
        pytest.param([blob(b"%PDF-1.7", "application/pdf")], True, id="pdf"),
    ],
)
def test_error_is_text_alone(items, is_said):
    """Given an image or a PDF in a result that is an error, then words stand for it: the API takes no other errors."""
    content, is_error = convert(*items, isError=is_said)
    assert is_error
    assert {block["type"] for block in content} == {"text"}
    assert any("is left out: a result that is an error" in block["text"] for block in content)


def test_error_of_the_tools_is_one():
    """Given `isError`, then the result is an error with the tool's words."""
    assert convert(text("no such file"), isError=True) == ([text("no such file")], True)


@pytest.mark.parametrize(
    ("content", "structured", "expected"),
    [
        pytest.param([], {"n": 1}, [text('{"n": 1}')], id="alone"),
        pytest.param([text('{"n": 1}')], {"n": 1}, [text('{"n": 1}')], id="beside-its-text"),
        pytest.param([text("")], {"n": 1}, [text('{"n": 1}')], id="beside-a-blank-text"),
        pytest.param([], [1, "ä"], [text('[1, "ä"]')], id="no-object"),
        pytest.param([], None, [text(NOTHING)], id="null"),
    ],
)
def test_structured_content_stands_where_there_is_no_text(content, structured, expected):
    """Given structured content, then it is shown as JSON unless the tool has given it in words as well."""
    assert convert(*content, structuredContent=structured)[0] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param([text("x" * 10)], [text("x" * 10)], id="just-fits"),
        pytest.param([text("x" * 14)], [text("x" * 10), "4 more bytes"], id="too-long"),
        pytest.param([text("x" * 8), text("y" * 8)], [text("x" * 8), text("yy"), "6 more bytes"], id="in-the-second"),
        pytest.param([text("x" * 10), text("y")], [text("x" * 10), "1 more bytes"], id="all-of-the-second"),
        pytest.param([text("x" * 9 + "ä")], [text("x" * 9), "2 more bytes"], id="not-within-a-character"),
    ],
)
def test_long_text_is_cut_off_with_a_note(content, expected):
    """Given more text than the limit of ten bytes, then the beginning is kept and the note counts the rest."""
    made, is_error = convert(*content, max_bytes=10)
    assert not is_error
    kept = [item for item in expected if isinstance(item, dict)]
    notes = [item for item in expected if isinstance(item, str)]
    assert made[: len(kept)] == kept
    assert len(made) == len(kept) + len(notes)
    assert all(note in made[-1]["text"] for note in notes)


def test_images_have_a_limit_of_their_own():
    """Given images over the limit together, then those that fit are kept, and a note tells of the others."""
    large = PNG + b"p" * (LARGEST_ATTACHMENTS_BYTES // 2)
    content, is_error = convert(image(large, "image/png"), image(large, "image/png"), image(PNG, "image/png"))
    assert [block["type"] for block in content] == ["image", "text", "image"]
    assert "over the limit" in content[1]["text"]
    assert not is_error


def test_many_parts_are_bounded():
    """Given more parts than anybody reads, then the rest is left out with a note."""
    content, _ = convert(*[text("x")] * 250)
    assert len(content) == 101
    assert "150 more parts" in content[-1]["text"]


@pytest.mark.parametrize("garbage", [None, 5, "text", [], {"content": "text"}, {"content": {"type": "text"}}])
def test_garbage_is_an_error(garbage):
    """Given what is no result at all, then the model is told so."""
    made = converted(garbage, 1000)
    assert (list(made.content), made.is_error) == ([text(UNREADABLE)], True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
ITEM = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "audio", "resource", "resource_link"]) | JSON},
    optional={"text": JSON, "data": JSON, "mimeType": JSON, "uri": JSON, "name": JSON, "resource": JSON},
)


@given(st.lists(ITEM | JSON), JSON, st.integers(0, 50))
def test_nothing_raises_and_no_text_is_blank(content, structured, limit):
    """Given any JSON, then there is content that the API takes: at least one block, and no blank text."""
    made = converted({"content": content, "structuredContent": structured}, limit)
    assert made.content
    assert all(block["type"] != "text" or block["text"].strip() for block in made.content)
    assert not made.is_error or all(block["type"] == "text" for block in made.content)
