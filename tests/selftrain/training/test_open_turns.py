"""Rows that begin with attempts: what LLaMA-Factory trains on is, token for token, what a forced sample had."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_process import prompts as wording
from data_process.building.second_thoughts import cut_trace
from data_process.building.sharegpt import to_row
from data_process.images.store import ImageStore
from data_process.io import load_problems
from data_process.prompts import SHORT
from data_process.schema import Example
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings
from selftrain.engines.base import Request, SamplingParams
from selftrain.engines.budget import TINY
from selftrain.engines.hf import HFEngine
from selftrain.sampling.second_thoughts import candidate_of
from selftrain.training import hyperparameters, open_turns
from selftrain.training.hyperparameters import TrainingSettings
from selftrain.training.launcher import train_command
from selftrain.training.llamafactory import train
from selftrain.training.row_lengths import preflight

ROOT = Path(__file__).parents[3]
BASE = ROOT / "models/tiny-qwen2vl"
LIMITS = (56 * 56, 224 * 224)
SETTINGS = TrainingSettings(hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml")


def test_the_script_takes_the_place_of_the_command():
    python = str(SETTINGS.interpreter)
    assert train_command(SETTINGS, {"template": "qwen2_vl"}) == [
        python,
        "-m",
        "llamafactory.cli",
        "train",
        "train.yaml",
    ]
    opened = train_command(SETTINGS, {"template": open_turns.opened("qwen2_vl")})
    assert opened == [python, "open_turns.py", "train", "train.yaml"]
    for method, script in (("full", "open_turns.py"), ("lora", "-m")):
        resolved = {"finetuning_type": method, "resume_from_checkpoint": "checkpoint-3"}
        assert train_command(SETTINGS, resolved)[1] == script
        assert train_command(SETTINGS, {"finetuning_type": method})[1] == "-m"


@pytest.mark.parametrize(("argv", "called"), [(["x.py", "train", "t.yaml"], "launch"), (["x.py", "t.yaml"], "run_exp")])
def test_ranks_train_and_the_command_launches(monkeypatch, argv, called):
    """torchrun starts the file again, without `train`; the file's name is what LLaMA-Factory hands to torchrun."""
    calls = []
    launcher = SimpleNamespace(__file__="theirs", launch=lambda: calls.append(("launch", launcher.__file__)))
    tuner = SimpleNamespace(run_exp=lambda: calls.append(("run_exp", None)))
    modules = {"llamafactory": SimpleNamespace(launcher=launcher), "llamafactory.train": SimpleNamespace(tuner=tuner)}
    for name, module in {**modules, "llamafactory.train.tuner": tuner}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(open_turns, "register", lambda: None)
    monkeypatch.setattr(open_turns, "find_renamed", lambda: None)
    monkeypatch.setattr(sys, "argv", argv)
    open_turns.main()
    assert calls == [(called, "x.py" if called == "launch" else None)]


def test_a_row_without_history_keeps_the_published_template(tmp_path):
    values = {"global_batch_size": 32}
    plain = hyperparameters.resolve(values, SETTINGS, tmp_path, tmp_path, 300, LIMITS)
    opened = hyperparameters.resolve(values, SETTINGS, tmp_path, tmp_path, 300, LIMITS, history=True)
    assert plain["template"] == "qwen2_vl"
    assert opened == plain | {"template": open_turns.opened("qwen2_vl"), "mask_history": True}


@pytest.fixture(scope="module")
def forced(tmp_path_factory):
    """Forced samples of the shipped base model: (example, completion, ids of its prompt), and the image store."""
    folder = tmp_path_factory.mktemp("forced")
    minigeo.write(folder, {"train": 8}, seed=0)
    problems = load_problems(folder / "train.jsonl", folder)
    store = ImageStore(folder / "store", folder, min_pixels=LIMITS[0], max_pixels=LIMITS[1])
    found = []
    with HFEngine(BASE, settings=HFSettings(threads=1)) as engine:
        for ignores in (1, 2, 4):
            params = SamplingParams(0.9, 256, budget=replace(TINY, num_ignore=ignores))
            requests = [
                Request(p.id, wording.cot(p, SHORT), tuple(map(store.path, p.images)), tuple(range(3)))
                for p in problems
            ]
            for problem, request, several in zip(problems, requests, engine.generate(requests, params), strict=True):
                ids = engine.prompt_ids(request.prompt, request.images)
                for k, completion in enumerate(several):
                    candidate = candidate_of(problem.id, ignores, k, completion)
                    trace = cut_trace(candidate, problem, TINY.ignore, completion.forcing.ignores)
                    example = Example(
                        candidate.id, "reflect", problem.id, request.prompt, trace.continuation, problem.images, (),
                        trace.attempts,
                    )  # fmt: skip
                    found.append((example, completion, ids))
    return found, store


@pytest.mark.slow
def test_training_sees_the_tokens_of_a_forced_sample(forced, tmp_path):
    """Of every sample: the same prompt, attempts and ignore strings in front, and loss on the continuation alone."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.converter import SharegptDatasetConverter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    found, store = forced
    report = preflight([example for example, *_ in found], BASE, store.path, 2048)
    assert len(report.kept) == len(found) == 72
    values = hyperparameters.read_hyperparameters(SETTINGS.hyperparameters, {}, SETTINGS.interpreter)
    longest = max(report.lengths)
    resolved = hyperparameters.resolve(values, SETTINGS, BASE, tmp_path / "out", longest, LIMITS, history=True)
    open_turns.register()
    open_turns.register()
    model_args, data_args, *_ = get_train_args(resolved)
    module = load_tokenizer(model_args)
    tokenizer = module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    encoder = SupervisedDatasetProcessor(template=template, data_args=data_args, **module)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    attr = DatasetAttr("file", "x", formatting="sharegpt", messages="messages", images="images", **tags)
    converter = SharegptDatasetConverter(dataset_attr=attr, data_args=data_args)
    newline, wait = tokenizer.encode("\n"), tokenizer.encode(TINY.ignore[0])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    compared = exact = 0
    for (example, completion, prompt), length, masked in zip(found, report.lengths, report.masked, strict=True):
        aligned = converter(to_row(example, store.path, open_turns=True))
        features = encoder.preprocess_dataset({key: [value] for key, value in aligned.items()})
        ids, labels = features["input_ids"][0], features["labels"][0]
        assert len(ids) == length
        target = [*tokenizer.encode(example.target), end, *newline]
        assert labels == [-100] * (len(prompt) + masked) + target, "loss on the continuation and its end, nothing else"
        assert ids[len(ids) - len(target) :] == target
        assert ids[: len(prompt)] == prompt
        # What stands before the continuation is what the model had before it when the sample was drawn. Where it wrote
        # an ignore string of its own, the row goes on after the last one, whoever wrote it.
        forcing, sampled = completion.forcing, [*prompt, *completion.token_ids]
        if completion.text.count(TINY.ignore[0]) != forcing.ignores:
            continue
        compared += 1
        assert len(example.history) == forcing.ignores
        before = completion.token_ids[: forcing.ignored_at[-1] + len(wait)]
        history = ids[len(prompt) : len(prompt) + masked]
        assert tokenizer.decode(history) == tokenizer.decode(before)
        exact += history == list(before) and ids[: len(sampled)] == sampled
    assert compared > 40
    assert exact >= 0.97 * compared, f"{exact} of {compared} are equal token by token"


@pytest.mark.slow
def test_two_ranks_train_with_the_template(tmp_path):
    """torchrun starts the script again for each rank, in a folder whose path has a blank."""
    rows = [
        Example(
            f"e{k}", "reflect", f"p{k}", "How large is x?", f" {k}+1={k + 1}.</think>\nAnswer: (B)", (), (), history
        )
        for k, history in enumerate([(("<think>It is 3.", " Wait,"),), (), (("<think>", "a"), (" b", " Wait,"))] * 4)
    ]
    overrides = {"global_batch_size": 4, "max_steps": 2, "lora_rank": 4, "lora_alpha": 8, "use_cpu": True}
    settings = SETTINGS.model_copy(update={"overrides": overrides, "per_device_batch": 1, "processes": 2})
    result = train(
        rows, settings=settings, base_model=BASE, image_path=Path, out=tmp_path / "a folder", image_limits=LIMITS
    )
    assert (result.steps, result.rows) == (2, 12)
    assert result.masked > 0
    log = (tmp_path / "a folder/train.log").read_text()
    assert "Num examples = 12" in log
    assert "Initializing 2 distributed tasks" in log
