"""Outside traces: the forms of their files, and every reason for which a row is left out."""

from __future__ import annotations

import json

import pytest
from PIL import Image, ImageDraw

from data_process.building.mixture import build
from data_process.prompts import SHORT, cot
from data_process.schema import DataError, Example, Origin, Problem, to_json
from data_process.traces.forms import question_of
from data_process.traces.leaks import leaking
from data_process.traces.reader import TraceFile, read_traces
from data_process.traces.tags import mentions_being_told, thinking_fault

ANGLE = Problem("t1", "Find angle x.", "B", ("30", "60"), ("images/1.png",))
SUM = Problem("t2", "What is 3 + 4?", "7", (), (), "number")
TRAIN = {problem.id: problem for problem in (ANGLE, SUM)}
RIGHT = "The angles add up to 90. 90-30=60 is (B).\nAnswer: (B)"
THOUGHT = f"<think>{RIGHT.splitlines()[0]}</think>\nAnswer: (B)"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    image = Image.new("RGB", (120, 90), "white")  # not blank: the guard compares it
    ImageDraw.Draw(image).line([(10, 80), (60, 10), (110, 80)], fill="black", width=3)
    image.save(tmp_path / "images" / "1.png")
    return tmp_path


def read(folder, kind, rows, **options):
    file = folder / "gpt.v1.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_traces(TraceFile(file, kind, **options), TRAIN, SHORT, folder)


def messages(asked, said, **more):
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], **more}


def spoken(asked, said, **more):
    return {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}], **more}


OURS = to_json(Example("cot/t1/0/1", "cot", "t1", cot(ANGLE, SHORT), RIGHT, ANGLE.images, ("t1/0/1",)))
S1K = {
    "question": "What is $5+6$?", "solution": "11", "cot_type": "math", "gemini_thinking_trajectory": "G",
    "gemini_attempt": "12", "deepseek_thinking_trajectory": "Five and six.", "deepseek_attempt": "So \\boxed{11}",
}  # fmt: skip

# kind, row, prompt, target, images, problem id (None: the row has no gold answer and is trusted)
FORMS = [
    ("rows", OURS, cot(ANGLE, SHORT), RIGHT, ("images/1.png",), "t1"),
    ("sharegpt", messages("<image>How large?", RIGHT, images=["images/1.png"], answer="B", choices=["30", "60"]),
     "How large?", RIGHT, ("images/1.png",), "outside/gpt/1"),
    ("sharegpt", messages("<image>Now: Find  angle x.", RIGHT, images=["images/1.png"], id="t1"),
     "Now: Find  angle x.", RIGHT, ("images/1.png",), "t1"),
    ("cot", {"id": "t1", "question": "2 + 2?", "answer": "4", "cot": "It is 4."}, "2 + 2?\nThink step by step.",
     "It is 4.", (), "outside/gpt/1"),  # another file's t1
    ("sharegpt", spoken("How large?\n(A) 30\n(B) 60", RIGHT, image="images/1.png", gold="B"),
     "How large?\n(A) 30\n(B) 60", RIGHT, ("images/1.png",), "outside/gpt/1"),
    ("sharegpt", messages("Compare <image> with that.", "It is 7.", images=["images/1.png"]),
     "Compare <image> with that.", "It is 7.", ("images/1.png",), None),
    ("cot", {"id": "t1", "response": RIGHT}, cot(ANGLE, SHORT), RIGHT, ("images/1.png",), "t1"),
    ("cot", {"problem_id": "t2", "rationale": "3 + 4 = 7"}, cot(SUM, SHORT), "3 + 4 = 7", (), "t2"),
    ("cot", {**to_json(ANGLE), "meta": {"rationale": THOUGHT}}, cot(ANGLE, SHORT), THOUGHT, ("images/1.png",), "t1"),
    ("cot", {"question": "2 + 2?", "answer": "4", "cot": "It is 4."}, "2 + 2?\nThink step by step.", "It is 4.", (),
     "outside/gpt/1"),
    ("thinking", S1K, "What is $5+6$?\nThink step by step.", "<think>Five and six.</think>\nSo \\boxed{11}", (),
     "outside/gpt/1"),
    ("thinking", {"question": "1 + 1?", "thinking_trajectories": ["One", "more."], "attempt": "2", "solution": "2"},
     "1 + 1?\nThink step by step.", "<think>One\nmore.</think>\n2", (), "outside/gpt/1"),
    ("thinking", {"question": "1 + 1?", "thinking_trajectories": ["One."], "attempt": 2, "solution": 2},
     "1 + 1?\nThink step by step.", "<think>One.</think>\n2", (), "outside/gpt/1"),
    ("thinking", {"id": "t1", "thinking": "90-30=60", "answer": "Answer: (B)"}, cot(ANGLE, SHORT),
     "<think>90-30=60</think>\nAnswer: (B)", ("images/1.png",), "t1"),
    ("thinking", {"image": "images/1.png", "prompt": "How large?", "response": THOUGHT, "answer": "(B) 60",
                  "choices": ["30", "60"]}, "How large?\n(A) 30\n(B) 60\nThink step by step.", THOUGHT,
     ("images/1.png",), "outside/gpt/1"),
    ("thinking", {"image": "images/1.png", "prompt": "How large?", "response": THOUGHT},
     "How large?\nThink step by step.", THOUGHT, ("images/1.png",), None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "prompt", "target", "images", "problem"), FORMS)
def test_forms(folder, kind, row, prompt, target, images, problem):
    found = read(folder, kind, [row], unjudged=problem is None)
    (trace,) = found.traces
    assert (trace.example.prompt, trace.example.target, trace.example.images) == (prompt, target, images)
    assert (trace.problem.id if trace.problem else None) == problem
    assert trace.ours == (problem in TRAIN)
    assert (trace.example.id, trace.example.kind) == ("outside/gpt/1", "cot")
    assert (found.offered, found.dropped, found.unjudged, found.text_only) == (1, {}, problem is None, not images)


GOOD = {"id": "t2", "response": "3 + 4 = 7"}
COT = {"id": "t1", "response": RIGHT}
# kind, row, the reason for which it is left out
LEFT_OUT = [
    ("cot", {**COT, "response": "Answer: (A)"}, "wrong"),
    ("cot", {**COT, "response": "It may be anything at all"}, "unreadable"),
    ("cot", {**COT, "response": None}, "empty_target"),
    ("cot", {**COT, "response": " "}, "empty_target"),
    ("cot", {**COT, "id": "t9"}, "unknown_problem"),
    ("cot", {"question": "Why?", "response": "Because."}, "no_gold"),
    ("cot", {"question": "Why?", "response": "Because.", "answer": None}, "no_gold"),
    ("cot", {"question": "Why?", "response": "B", "answer": "B"}, "unreadable_gold"),  # a letter without choices
    ("cot", {**COT, "finish": "length"}, "truncated"),
    ("cot", {**COT, "response": f"{RIGHT}<|im_end|>"}, "mark_in_target"),
    ("cot", {**COT, "response": f"See <image>. {RIGHT}"}, "mark_in_target"),
    ("cot", {**COT, "response": f"<|im_start|>think\nHm.\n<|im_start|>answer\n{RIGHT}"}, "foreign_tags"),
    ("cot", {**COT, "response": f"<|begin_of_thought|>Hm.<|end_of_thought|>{RIGHT}"}, "foreign_tags"),
    ("cot", {**COT, "response": f"<thinking>Hm.</thinking>{RIGHT}"}, "foreign_tags"),
    ("cot", {**COT, "response": f"[THINK]Hm.[/THINK]{RIGHT}"}, "foreign_tags"),
    ("cot", {**COT, "response": f"<think>Hm. {RIGHT}"}, "malformed_thinking"),
    ("cot", {**COT, "response": f"Hm.</think>{RIGHT}"}, "malformed_thinking"),
    ("cot", {**COT, "response": f"<think>a</think>b<think>c</think>{RIGHT}"}, "malformed_thinking"),
    ("cot", {**COT, "response": f"<think>{RIGHT}</think>"}, "malformed_thinking"),
    ("cot", {"question": "<image>2 + 2?", "response": "It is 4.", "answer": "4"}, "marks_without_images"),
    ("cot", {"question": "<image 2>?", "response": "4", "image": "images/1.png"}, "marks_and_images_differ"),
    ("thinking", {"id": "t1", "thinking": "Hm.</think>", "answer": "(B)"}, "malformed_thinking"),
    ("thinking", {"id": "t1", "thinking": "Hm.", "answer": None}, "no_answer"),
    ("thinking", {**S1K, "deepseek_attempt": "It is 12."}, "wrong"),
    ("thinking", {**S1K, "solution": "A long proof. " * 20}, "no_gold"),
    ("thinking", {**S1K, "question": "Look at <image 1>: $5+6$?"}, "marks_without_images"),
    ("thinking", {"prompt": "How large?", "image": "images/1.png", "response": THOUGHT}, "no_gold"),
    ("sharegpt", messages("<image>Find angle x.", RIGHT, id="t1"), "marks_without_images"),
    ("sharegpt", messages("<image><image>x", RIGHT, id="t1", images=["images/1.png"]), "marks_and_images_differ"),
    ("sharegpt", messages("<image 2> x", RIGHT, id="t1", images=["images/1.png"]), "marks_and_images_differ"),
    ("sharegpt", messages("Picture 1: <img>1.png</img> x", RIGHT, id="t1", image="images/1.png"), "foreign_image_mark"),
    ("sharegpt", messages("<image>x", RIGHT, id="t1", images=["../1.png"]), "image_outside"),
    ("sharegpt", messages("<image>x", RIGHT, id="t1", images=["/etc/1.png"]), "image_outside"),
    ("sharegpt", messages("<image>x", RIGHT, id="t1", images=[7]), "image_unreadable"),
    ("sharegpt", messages("<image>x", RIGHT, images=["images/1.png"]), "no_gold"),
    ("sharegpt", {"messages": messages("a", "b")["messages"] * 2, "id": "t1"}, "several_turns"),
    ("sharegpt", {"messages": messages("a", "b")["messages"][:1], "id": "t1"}, "no_response"),
    ("sharegpt", {"messages": [{"role": "system", "content": "Be brief."}], "id": "t1"}, "system_turn"),
    ("rows", {**OURS, "target": "Answer: (A)"}, "wrong"),
    ("rows", {**OURS, "problem_id": "t9"}, "no_gold"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), LEFT_OUT)
def test_what_is_left_out_is_counted(folder, kind, row, reason):
    good = {"cot": GOOD, "thinking": S1K, "rows": OURS}.get(kind, messages("What is 3 + 4?", "It is 7.", id="t2"))
    found = read(folder, kind, [row, good])
    assert (found.offered, dict(found.dropped), len(found.traces)) == (2, {reason: 1}, 1)
    assert found.traces[0].example.id == "outside/gpt/2"


# kind, rows (a text is the file itself), options, what the error says
REFUSED = [
    ("cot", '{"id": "t1", "resp', {}, "line 1: not complete JSON"),
    ("cot", "[1]", {}, "must be a JSON object"),
    ("cot", "", {}, "the file holds no row"),
    ("cot", [{"id": "t1"}], {}, "no solution: a row of kind cot has one of response"),
    ("cot", [{"response": "x"}], {}, "neither the id of a training problem nor a 'question'"),
    ("cot", [{"id": "t9", "response": "x"}], {}, r"none of 1 traces can be used \(unknown_problem 1\)"),
    ("cot", [{"question": "Why?", "response": "x"}], {}, "unjudged: true"),
    ("cot", [{**COT, "response": f"<thinking>x</thinking>{RIGHT}"}], {}, r"tags: \[OPENING, CLOSING\]"),
    ("thinking", [COT | {"response": None}], {}, "no trace: a row of kind thinking"),
    ("thinking", [{"question": "1?", "thinking": {"a": 1}, "answer": "2"}], {}, "thinking and answer are texts; found"),
    ("thinking", [{"question": "1?", "thinking": "1", "answer": {"a": 1}}], {}, "thinking and answer are texts; found"),
    ("sharegpt", [COT], {}, "no 'messages' or 'conversations'"),
    ("sharegpt", [messages("a", ["b"])], {}, "a turn has a role"),
    ("sharegpt", [{"messages": [{"role": ["user"], "content": "a"}]}], {}, "a turn has a role"),
    ("rows", [{**OURS, "history": [["a", 5]]}], {}, "not a training row .*field 'history'"),
    ("rows", [COT], {}, "not a training row"),
]


@pytest.mark.parametrize(("kind", "rows", "options", "message"), REFUSED)
def test_a_file_that_cannot_be_used_is_refused(folder, kind, rows, options, message):
    file = folder / "gpt.jsonl"
    file.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message) as error:
        read_traces(TraceFile(file, kind, **options), TRAIN, SHORT, folder)
    assert str(folder) in str(error.value)


def test_own_tags_limits_duplicates_and_absolute_images(folder):
    tagged = {**COT, "response": THOUGHT.replace("think>", "reasoning>")}
    found = read(folder, "cot", [tagged, tagged, GOOD, GOOD], tags=("<reasoning>", "</reasoning>"), limit=2)
    assert [trace.example.target for trace in found.traces] == [THOUGHT, GOOD["response"]]
    assert (found.offered, dict(found.dropped)) == (3, {"duplicate": 1})  # what is after the limit is not offered
    row = messages("<image>Find angle x.", RIGHT, id="t1", images=[str(folder / "images" / "1.png")])
    assert read(folder, "sharegpt", [row]).traces[0].example.images == ("images/1.png",)


def test_a_mixture_takes_what_was_read(folder):
    rows = [trace.example for trace in read(folder, "cot", [COT, GOOD]).traces]
    made = build(list(TRAIN.values()), [], rule="a-orig", prompts=SHORT, seed=0, extra=rows)
    assert {example.id for example in made.examples} > {"outside/gpt/1", "outside/gpt/2"}


TEST_PROBLEM = Problem("test-0", "How large is angle ABC in the triangle?", "A", ("30", "60"), ("images/1.png",))
ASKED = TEST_PROBLEM.question
# The user turn of a row without an id, and whether it asks what the test problem asks.
ASKING = [
    (f"<image>{ASKED}", True),
    (f"<image>{ASKED}\nChoices:\n(A) 30\n(B) 60\nAnswer the question with Chain-of-Thought.", True),
    (f"<image>{ASKED}\n(A) 30\n(B) 60\nThink step by step.\nPrediction 1: Answer: (A)\nWhich is correct?", True),
    (f"<image>Question: {ASKED}\nChoices:\nA:30\nB:60", True),
    ("<image>How long is the side BC of the triangle?", False),
]


@pytest.mark.parametrize(("asked", "leaks"), ASKING)
def test_the_guard_reads_what_a_prompt_asks(folder, asked, leaks):
    rows = [messages(asked, RIGHT, images=["images/1.png"]), messages("Find angle x.", RIGHT, id="t1")]
    found = read(folder, "sharegpt", rows, unjudged=True)
    _, found_ids = leaking(found.traces, {"test": [TEST_PROBLEM]}, folder)
    ids = {"outside/gpt/1"} if leaks else set()
    assert found_ids == ids
    left = found.without(dict.fromkeys(found_ids, "leak"))
    assert (len(left.traces), left.dropped) == (2 - len(ids), {"leak": 1} if leaks else {})


def test_a_data_set_that_test_contains_is_a_leak(folder):
    row = {"question": "2 + 2?", "answer": "4", "cot": "It is 4.", "origin": "GeoQA+"}
    found = read(folder, "cot", [row, GOOD])
    test = [Problem("test-0", "Other?", "5", answer_type="number", origin=Origin("GeoQA+", "MathVista"))]
    assert leaking(found.traces, {"test": test}, folder)[1] == {"outside/gpt/1"}
    assert leaking(found.traces, {"test": test}, folder, ["GeoQA"])[1] == frozenset()


def test_what_shipped_wordings_ask(folder):
    from data_process.prompts import PROMPT_SETS, qa, refine, select

    problem = Problem("p", "How large is angle ABC?", "A", ("30", "60"))
    for prompts in PROMPT_SETS.values():
        for shown in (problem, Problem("p", problem.question, "30", answer_type="number")):
            made = [
                qa(shown, prompts),
                cot(shown, prompts),
                refine(shown, "x", prompts),
                select(shown, ["x", "y"], prompts),
            ]
            assert {question_of(prompt) for prompt in made} == {problem.question}, prompts.id


TOLD = [
    "The hint says B, so x is 60.",
    "Since the correct answer is (B), x must be 60.",
    "As the answer is given as (B), we take 60.",
    "This matches the given answer.",
    "We are told the answer is B.",
    "Knowing that the answer is 60, we look for a sum.",
    "The correct option was already provided.",
    "90 - 30 = 60, which agrees with the given answer.",
    "According to the reference answer, it is 60.",
]
NOT_TOLD = [
    RIGHT,
    "The answer is (B).",
    "Given that AB = 3 and angle A is given, the answer is 60.",
    "The known angles are 30 and 90. The final answer is 60.",
    "We are told that AB is 3. So x is 60.",
    "The correct answer is (B).",
    "The side must be equal to BC.",
]


@pytest.mark.parametrize(("text", "told"), [*((t, True) for t in TOLD), *((t, False) for t in NOT_TOLD)])
def test_being_told(text, told):
    assert mentions_being_told(text) is told


def test_thinking_faults():
    assert thinking_fault("No tags at all. (B)") is None
    assert thinking_fault(f" {THOUGHT}") is None
    assert thinking_fault("Hm. <think>x</think> B") == "malformed_thinking"
    assert thinking_fault("<think> </think> B") == "malformed_thinking"
