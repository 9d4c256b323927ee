"""A selector's prompt is stored without the samples that stand beside it."""

import pytest

from selftrain.test_time.results import in_parts

LONG, LONGER, OTHER = "a sample (B)", "a sample (B) and more", "sample [x] + (C"


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (f"1. {LONG}\n2. {OTHER}\n", ("1. ", "0", "\n2. ", "2", "\n")),
        (f"{LONGER}{LONG}", ("", "1", "", "0", "")),
        (f"{LONG} {LONG}", ("", "0", " ", "0", "")),
        ("nothing of them", ("nothing of them",)),
        ("", ("",)),
    ],
)
def test_parts_and_back(prompt, parts):
    texts = [LONG, LONGER, OTHER, LONG, "(B)", ""]
    assert in_parts(prompt, texts) == parts
    assert "".join(texts[int(part)] if i % 2 else part for i, part in enumerate(parts)) == prompt
    assert in_parts(prompt, ["(B)"]) == (prompt,)
