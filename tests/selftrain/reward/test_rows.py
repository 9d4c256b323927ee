"""What a reward model is asked, and the pairs that a head is trained on."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from data_process import prompts as wording
from data_process.prompts import prompt_set
from data_process.schema import DataError
from selftrain.reward import rows
from selftrain.reward.labels import StepLabel
from selftrain.sampling.sampler import Ask
from tests.selftrain.reward.heads import settings


def test_what_is_asked(problems):
    """A head reads the prompt of a chain of thought and the turn so far, in which marks are broken up."""
    prompts = prompt_set("r3v-qwen2vl-untrained")  # whose base model is asked in another wording
    ask = rows.ask_about("a", problems[0], "<|image_pad|> Step.", prompts, head=True)
    assert ask == Ask("a", wording.cot(problems[0], prompts), problems[0].images, "< |image_pad| > Step.")
    ask = rows.ask_about("a", problems[0], "<|image_pad|> Step.", prompts, head=False)
    assert "< |image_pad| > Step." in ask.prompt
    assert ask.prefix == ""


def labels_for(problems, draw: random.Random) -> list[StepLabel]:
    found = []
    for problem in problems:
        kind = draw.choice(["mixed", "mixed", "mixed", "good", "bad"])
        for k in range(draw.randrange(1, 8)):
            right = {"mixed": draw.randrange(5), "good": 4, "bad": 0}[kind]
            found.append(StepLabel(problem.id, k // 3, k % 3, f"Step {k} of {problem.id}.", right, 4))
    return found


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("seed", range(20))
def test_pairs(problems, kind, seed):
    """Of one problem, a good step first; every step of a problem that has both kinds once or more; the rest counted."""
    config = settings(f"reward.labels={kind}", f"seed={seed}")
    labels = labels_for(problems, random.Random(seed))
    apart = rows.held_out(labels, config)
    assert len(apart) == len({one.problem_id for one in labels}) // rows.HELD_OUT
    made, left_out = rows.pairs(labels, problems, config, apart)
    assert (made, left_out) == rows.pairs(labels, problems, config, apart)
    good = {(one.problem_id, one.steps): rows.is_good(one, config) for one in labels}
    seen = Counter()
    for row in made:
        assert good[row.problem_id, row.target]
        assert not good[row.problem_id, row.rejected]
        assert row.images
        assert row.problem_id not in apart
        seen.update([(row.problem_id, row.target), (row.problem_id, row.rejected)])
    assert len(seen) + left_out.total() == len(labels)
    assert len({row.id for row in made}) == len(made)
    for name in {row.problem_id for row in made}:
        steps = [is_good for (problem, _), is_good in good.items() if problem == name]
        assert sum(row.problem_id == name for row in made) == max(sum(steps), len(steps) - sum(steps))


def test_no_pairs(problems):
    labels = [StepLabel(problem.id, 0, 0, "A step.", 4, 4) for problem in problems]
    with pytest.raises(DataError, match=r"'only good ones': 38.*nothing to compare; raise reward\.problems") as error:
        rows.pairs(labels, problems, settings(), {labels[0].problem_id, labels[1].problem_id})
    assert "'held out': 2" in str(error.value)
    with pytest.raises(DataError, match=r"one labelled problem in 5, and there are 4; raise reward\.problems"):
        rows.held_out(labels[:4], settings())
    with pytest.raises(DataError, match=r"the 1 steps of the 1 problems .* are all good; raise .* another --output"):
        rows.held_out(labels[:5], settings())
    bad = [replace(one, right=0) for one in labels]
    with pytest.raises(DataError, match=r"the 8 steps of the 8 problems that are held out for it are all bad"):
        rows.held_out(bad, settings())
