"""The judge as one file: it needs nothing of this package, judges as the package does, and trainers can call it."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from data_process.judging import JUDGE_VERSION, judge
from data_process.schema import Problem
from selftrain.cli.main import main
from selftrain.export.reward import ground_truth
from selftrain.files import read_json, write_json
from tests.selftrain.export.test_export import export

CHOICE = Problem("c", "How long is AB?", "B", ("2", "4", "6"), ("a.png",), meta={"family": "x"})
LENGTH = Problem("n", "How long is AB in cm?", "12.5", answer_type="number", unit="cm", tolerance=0.01)
ROOT3 = Problem("e", "What is x?", "2√3", answer_type="expression", alternatives=("√12",))
LISTED = Problem("l", "Which?", "[1, 2]", answer_type="list")
CASES = [
    (CHOICE, "4 = 4, so the answer is (B).", "correct"),
    (CHOICE, "Answer: (A)", "wrong"),
    (CHOICE, "no idea at all", "abstain"),
    (CHOICE, "", "abstain"),
    (LENGTH, "It is 125 mm.\nAnswer: 12.5", "correct"),
    (LENGTH, "Answer: 13", "wrong"),
    (ROOT3, r"\boxed{\sqrt{12}}", "correct"),
    (ROOT3, "Answer: 3√2", "wrong"),
    (LISTED, "Answer: [1, 2]", "correct"),
]
# Loads the file by its path, as the trainers do, in a process without this project, and says what it judges.
LONELY = """
import importlib.util, json, sys
path, cases = sys.argv[1], json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("custom_reward_fn", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = [module.verdict_on(text, truth) for truth, text in cases]
print(json.dumps([found, sorted(n for n in sys.modules if n.startswith(("data_process", "selftrain.")))]))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reward") / "reward.py"
    assert main(["export", "--reward", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def reward(file) -> ModuleType:
    spec = importlib.util.spec_from_file_location("custom_reward_fn", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_needs_nothing_of_the_package(file, tmp_path):
    """`-I`: neither the working folder nor PYTHONPATH; the installed package is refused by a hook."""
    refuse = "import sys\nsys.modules['data_process'] = sys.modules['selftrain'] = None\n"
    cases = [(ground_truth(problem), text) for problem, text, _ in CASES]
    done = subprocess.run(
        [sys.executable, "-I", "-c", refuse + LONELY, str(file)], input=json.dumps(cases), cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, loaded = json.loads(done.stdout)
    assert found == [status for *_, status in CASES]
    assert loaded == ["data_process"]  # the hook's


@pytest.mark.parametrize(("problem", "text", "status"), CASES)
def test_it_judges_as_the_package(reward, problem, text, status):
    assert judge(text, problem).status == status
    assert reward.verdict_on(text, ground_truth(problem)) == status


def test_two_exports_are_equal_and_name_the_judge(file, tmp_path, reward):
    main(["export", "--reward", "--out", str(tmp_path / "other.py")])
    assert (tmp_path / "other.py").read_bytes() == file.read_bytes()
    assert f"selftrain-{JUDGE_VERSION}" == reward.REWARD_NAME
    assert f"judge version {JUDGE_VERSION}" in file.read_text()
    assert "a.png" not in ground_truth(CHOICE)


# ---- as the trainers call it; each call stands as in the trainer's own code ----------------------------------------

TRUTHS = [ground_truth(CHOICE)] * 3
TEXTS = ["Answer: (B)", "Answer: (A)", "no idea at all"]


@pytest.mark.parametrize("conversational", [False, True])
def test_trl(reward, conversational):
    """GRPOTrainer._calculate_rewards (trl/trainer/grpo_trainer.py)."""
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS] if conversational else TEXTS
    reward_kwargs = {"id": ["c"] * 3, "images": [[]] * 3, "ground_truth": TRUTHS, "trainer_state": object()}
    output = reward.judge_reward(
        prompts=["q"] * 3, completions=completions, completion_ids=[[1, 2], [3], [4]], **reward_kwargs
    )
    assert output == [1.0, 0.0, 0.0]
    assert reward.judge_reward.__name__ == "judge_reward"  # the name of its metric


def test_trl_parts_of_a_message(reward):
    parts = [{"type": "text", "text": "Answer: "}, {"type": "text", "text": "(B)"}]
    assert reward.judge_reward([[{"role": "assistant", "content": parts}]], TRUTHS[:1]) == [1.0]


def test_easyr1(reward):
    """BatchFunctionRewardManagerMixin.compute_reward_batch (verl/workers/reward/function.py)."""
    assert reward.REWARD_TYPE == "batch"
    reward_inputs = [
        {"response": text, "response_length": 5, "ground_truth": truth}
        for text, truth in zip(TEXTS, TRUTHS, strict=True)
    ]
    scores = reward.main(reward_inputs)
    assert [score["overall"] for score in scores] == [1.0, 0.0, 0.0]
    assert [score["abstain"] for score in scores] == [0.0, 0.0, 1.0]
    assert {type(value) for score in scores for value in score.values()} == {float}


def test_verl(reward):
    """NaiveRewardManager.run_single and BatchRewardManager.verify (verl's reward managers)."""
    extra_info = {"split": "train", "index": 3, "num_turns": None, "rollout_reward_scores": {}}
    single = [
        reward.compute_score(data_source="selftrain", solution_str=text, ground_truth=truth, extra_info=extra_info)
        for text, truth in zip(TEXTS, TRUTHS, strict=True)
    ]
    assert [score["score"] for score in single] == [1.0, 0.0, 0.0]
    several = reward.compute_scores(
        data_sources=["selftrain"] * 3, solution_strs=TEXTS, ground_truths=TRUTHS, extra_infos=[extra_info] * 3
    )
    assert several == single


def test_a_truncated_completion(reward, monkeypatch):
    """Where the trainer's limit is known, a text that was cut counts only if its answer was complete before."""
    monkeypatch.setattr(reward, "MAX_TOKENS", 3)
    cut = "It is 4 or 6. So it is 4"
    assert judge(cut, CHOICE).status != judge(cut, CHOICE, truncated=True).status
    for ids, earned in (([1, 2], judge(cut, CHOICE).correct), ([1, 2, 3], False)):
        assert reward.judge_reward([cut], TRUTHS[:1], [ids]) == [float(earned)]


@pytest.mark.parametrize("truth", ["B", '{"id": "c"}', '["B"]', '{"id": "c", "question": "", "answer": "B", "x": 1}'])
def test_a_ground_truth_that_is_no_problem(reward, truth):
    with pytest.raises(ValueError, match="a ground truth must be a problem as JSON"):
        reward.judge_reward(["Answer: (B)"], [truth])


# ---- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["trl", "easyr1", "verl"])
def test_prompts(rehearsal, tmp_path, capsys, trainer, reward):
    import datasets

    from data_process import prompts as wording
    from data_process.io import load_problems

    folder, run = tmp_path / "prompts", tmp_path / "run"
    shutil.copytree(rehearsal, run)
    kept = read_json(run / "leakage/kept.json")[1:]  # as if the first training problem stood in test
    write_json(run / "leakage/kept.json", kept)
    more = [] if trainer == "trl" else ["--trainer", trainer]
    status, said, error = export(capsys, run, "--reward", "--out", tmp_path / "reward.py", "--prompts", folder, *more)
    assert status == 0, error
    assert "prompts in train.parquet" in said
    config = read_json(rehearsal / "config.json")
    data = Path(config["data"]["folder"])
    for file, split in (("train.parquet", "train"), ("val.parquet", "dev")):
        problems = [p for p in load_problems(data / f"{split}.jsonl", data) if split != "train" or p.id in kept]
        rows = datasets.load_dataset(
            "parquet", data_files=str(folder / file), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(rows) == len(problems) > 0
        for row, problem in zip(rows, problems, strict=True):
            asked = wording.cot(problem, wording.prompt_set(config["prompts"]))
            assert row["images"][0].size[0] % 28 == 0
            if trainer == "trl":
                assert row["prompt"] == [{"role": "user", "content": asked}]
                truth = row["ground_truth"]
            elif trainer == "easyr1":
                assert row["prompt"] == f"<image>{asked}"
                truth = row["answer"]
            else:
                assert row["prompt"] == [{"role": "user", "content": f"<image>{asked}"}]
                assert (row["data_source"], row["extra_info"]["split"]) == ("selftrain", split)
                truth = row["reward_model"]["ground_truth"]
            assert reward.verdict_on(f"Answer: ({problem.answer})", truth) == "correct"


def test_images_inside_a_prompt():
    """TRL would put them first, so the prompt is in parts; the others read marks in the text."""
    from selftrain.export.prompts import row_of

    problem = Problem("p", "q", "1", images=("a", "b"), answer_type="number")
    prompt = "Is <image> like it?"
    parts = row_of("trl", problem, prompt, 2, "train", 0, images_first=False)["prompt"][0]["content"]
    assert [(part["type"], part["text"]) for part in parts] == [
        ("image", None), ("text", "Is "), ("image", None), ("text", " like it?"),
    ]  # fmt: skip
    assert (
        row_of("easyr1", problem, prompt, 2, "train", 0, images_first=False)["prompt"] == "<image>Is <image> like it?"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "p"], "--prompts DIR and a run folder belong together"),
        (["RUN"], "--prompts DIR and a run folder belong together"),
        (["--trainer", "verl"], "--trainer needs --prompts DIR"),
        (["--push", "a/b"], "--push does not go with --reward"),
    ],
)
def test_wrong_words(rehearsal, tmp_path, capsys, words, message):
    given = [rehearsal if word == "RUN" else word for word in words]
    status, _, error = export(capsys, *given, "--reward", "--out", tmp_path / "r.py")
    assert status == 2
    assert message in error
    assert not (tmp_path / "r.py").exists()


@pytest.mark.slow
def test_nothing_is_overwritten(tmp_path, capsys):
    out = tmp_path / "r.py"
    out.write_text("mine")
    assert "exists; choose another name" in export(capsys, "--reward", "--out", out)[2]
    assert out.read_text() == "mine"
    assert export(capsys, "--reward", "--out", out, "--overwrite")[0] == 0
    assert "is a folder" in export(capsys, "--reward", "--out", tmp_path, "--overwrite")[2]


def test_prompts_before_the_leakage_guard(rehearsal, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(rehearsal / "config.json", run)
    error = export(capsys, run, "--reward", "--out", tmp_path / "r.py", "--prompts", tmp_path / "p")[2]
    assert "has not looked for test problems in train yet" in error
    assert not (tmp_path / "p").exists()


# ---- TRL's trainer -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trl_trains_two_steps(rehearsal, tiny_model_path, tmp_path, capsys):
    """GRPOTrainer with the exported file and prompts: it trains, and logs the judge's reward under its name."""
    from trl import import_utils  # LLaMA-Factory needs TRL, so it is there wherever the project is

    # TRL 0.24 was written for transformers 4, whose answer to "is it installed?" was no pair.
    for name, value in vars(import_utils).items():
        if name.endswith("_available") and isinstance(value, tuple):
            setattr(import_utils, name, value[0])
    import datasets
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    out, folder = tmp_path / "reward.py", tmp_path / "prompts"
    assert export(capsys, rehearsal, "--reward", "--out", out, "--prompts", folder)[0] == 0
    spec = importlib.util.spec_from_file_location("custom_reward_fn", out)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = datasets.load_dataset(
        "parquet", data_files=str(folder / "train.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_path, dtype=torch.float32)
    model.warnings_issued = {}  # an attribute of transformers 4, which TRL 0.24 writes to
    forward = model.forward

    @functools.wraps(forward)
    def with_types(input_ids: torch.Tensor, **more):
        """transformers 5 asks for the types of tokens, which TRL 0.24 does not pass on."""
        types = (input_ids == model.config.image_token_id).int()
        return forward(input_ids=input_ids, **{**more, "mm_token_type_ids": types})

    model.forward = with_types
    settings = GRPOConfig(
        output_dir=str(tmp_path / "grpo"), max_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=8, max_prompt_length=None, logging_steps=1, report_to="none", save_strategy="no",
        use_cpu=True, bf16=False, learning_rate=1e-3,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, reward_funcs=module.judge_reward, args=settings, train_dataset=rows,
        processing_class=AutoProcessor.from_pretrained(tiny_model_path),
    )  # fmt: skip
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "rewards/judge_reward/mean" in entry]
    assert len(logged) == 2
    assert all(0 <= entry["rewards/judge_reward/mean"] <= 1 for entry in logged)
