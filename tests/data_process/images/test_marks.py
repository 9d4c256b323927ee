"""Where images stand in prompts, and marks that stay text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.images.marks import check_marks, neutralise, place, segments, without_leading_marks
from data_process.prompts import R3V, cot, images, refine, select
from data_process.schema import DataError, Problem

# (texts, images, the texts as placed, the order of the images)
PLACED = {
    "no mark": (["Which?", "1"], 2, ["Which?", "1"], [0, 1]),
    "marks in the middle": (["Is <image1> like <image 2>?"], 2, ["Is <image> like <image>?"], [0, 1]),
    "underscore": (["Is it <image_1>?"], 1, ["Is it <image>?"], [0]),
    "plain marks in turn": (["Is <image> like <image>?"], 2, ["Is <image> like <image>?"], [0, 1]),
    "permuted": (["Is <image 2> like <image 1>?"], 2, ["Is <image> like <image>?"], [1, 0]),
    "without a mark first": (["Is it <image 2>?"], 3, ["Is it <image>?"], [0, 2, 1]),
    "a second mention": (["See <image 1>. In <image1>, x?"], 1, ["See <image>. In image 1, x?"], [0]),
    "a mention in a choice": (["See <image 1>.", "as <image 1>", "b"], 1, ["See <image>.", "as image 1", "b"], [0]),
    "choices are images": (["Which?", "<image 1>", "<image 2>"], 2, ["Which?", "<image>", "<image>"], [0, 1]),
    "at the beginning": (["<image 1>Which?"], 1, ["Which?"], [0]),
    "all at the beginning": (["<image><image>Which?"], 2, ["Which?"], [0, 1]),
    "permuted at the beginning": (["<image 2><image 1>Which?"], 2, ["Which?"], [1, 0]),
    "with others that come first": (["<image 2> and this?"], 2, [" and this?"], [0, 1]),
    "plain ones are those without a number": (["a <image 1> b <image>"], 2, ["a <image> b <image>"], [0, 1]),
    "plain before a number": (["a <image> b <image 1>"], 2, ["a <image> b <image>"], [1, 0]),
    "other marks": (["<|im_end|> <image 1> <video>"], 1, ["< |im_end| > <image> < video >"], [0]),
    "text only": (["<image> and <image 1>"], 0, ["< image > and <image 1>"], []),
}


@pytest.mark.parametrize("name", PLACED)
def test_place(name):
    texts, n_images, placed, order = PLACED[name]
    assert place(texts, n_images, "row 1") == (placed, order)


@pytest.mark.parametrize(
    ("texts", "n_images", "message"),
    [
        (["<image 2>?"], 1, r"row 7: the text marks <image 2>, but the problem has one image"),
        (["a", "<image0>"], 2, r"row 7: the text marks <image0>, but the problem has 2 images"),
        (["<image> <image> <image>"], 2, r"row 7: the text marks <image>, but the problem has 2 images"),
        (["<image 1> <image>"], 1, r"row 7: the text marks <image>, but the problem has one image"),
        (["<image_3>"], 0, r"row 7: the text marks <image_3>, but the problem has no image"),
    ],
)
def test_marks_of_images_that_do_not_exist(texts, n_images, message):
    with pytest.raises(DataError, match=message):
        check_marks(texts, n_images, "row 7")


PIECE = st.sampled_from(["<image>", "<image 1>", "<image2>", "<image_3>", "<|im_end|>", "<", ">", "image", " ", "a"])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(PIECE, max_size=8).map("".join), min_size=1, max_size=3), st.integers(0, 4))
def test_every_image_has_one_place(texts, n_images):
    """Whatever the texts hold, a prompt has a place for each image and none besides, and no other mark."""
    try:
        check_marks(texts, n_images, "row")
    except DataError:
        return
    placed, order = place(texts, n_images, "row")
    assert sorted(order) == list(range(n_images))
    prompt = "\n".join(placed)
    parts = segments(prompt, n_images)
    assert len(parts) == n_images + 1
    assert not prompt.startswith("<image>")
    assert all(neutralise(part) == part for part in parts)
    if not any("<image" in text for text in texts):
        assert placed == [neutralise(text) for text in texts]
        assert order == list(range(n_images))


@pytest.mark.parametrize(
    ("text", "choices", "left"),
    [
        ("<image>\nFind x.", (), "Find x."),
        ("Find x.", (), "Find x."),
        (" <image> <image>Find x.", (), "Find x."),
        ("<image 1>\n<image_2> Find x.", (), "Find x."),
        ("<image 2><image 1>Find x.", (), "<image 2><image 1>Find x."),  # the order would be lost
        ("<image>Find x in <image>.", (), "<image>Find x in <image>."),
        ("Find x.\n<image>", (), "Find x.\n<image>"),
        ("<image 1>Find x.", ("as in <image 1>", "b"), "<image 1>Find x."),  # the choice would become the first mark
    ],
)
def test_leading_marks(text, choices, left):
    assert without_leading_marks(text, choices) == left


def test_segments():
    assert segments("Which?", 0) == ["Which?"]
    assert segments("Which?", 2) == ["", "", "Which?"]
    assert segments("Is <image> it?", 2) == ["", "Is ", " it?"]
    with pytest.raises(DataError, match="2 <image> placeholders but 1 images"):
        segments("<image> <image>", 1)


def test_prompts_of_several_images():
    """Question and choices place images; a model's texts never do, and the images are listed as they stand."""
    problem = Problem("p", "Is <image 2> as <image 1>?", "A", ("as <image 2>", "no"), ("a.png", "b.png"))
    asked = "Is <image> as <image>?\nChoices:\n(A) as image 2\n(B) no"
    assert images(problem) == ("b.png", "a.png")
    assert cot(problem, R3V).startswith(asked)
    for text in (refine(problem, "<image 1> <image>", R3V), select(problem, ["<image>", "<image2>"], R3V)):
        assert text.startswith(asked)
        assert text.count("<image>") == 2
        assert segments(text, 2)[0] == "Is "
    with pytest.raises(DataError, match=r"problem 'p': the text marks <image 3>"):
        cot(Problem("p", "<image 3>?", "1", (), ("a.png",), "number"), R3V)
