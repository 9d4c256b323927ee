"""Exporting a run: what is written, what is refused and when, uploads, and that other programs load the result."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

from selftrain.cli.main import main
from selftrain.export import hub
from selftrain.export.source import MANIFEST
from selftrain.files import read_json, write_json
from tests.selftrain.engines.adapters import random_adapter
from tests.selftrain.engines.contract import VLLM_PYTHON, needs_vllm
from tests.selftrain.export.conftest import LAYER, TRAPS

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models/tiny-qwen2vl"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)


def export(capsys, *words: object) -> tuple[int, str, str]:
    status = main(["export", *map(str, words), "--quiet"])
    return status, *capsys.readouterr()


def card_of(folder: Path) -> tuple[dict, str]:
    front, text = (folder / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    return yaml.safe_load(front), text


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


# ---- weights -------------------------------------------------------------------------------------------------------


def test_merged_weights(small_run, small_base, tmp_path, capsys):
    """The base's files, tensors and dtypes; only the layer of the adapter differs, and by just the adapter."""
    import torch

    out = tmp_path / "out"
    assert export(capsys, small_run, "--out", out, "--merged") == (0, f"{out}: merged weights of iteration 1\n", "")
    before, after = tensors(small_base), tensors(out)
    assert {f: {n: t.dtype for n, t in file.items()} for f, file in after.items()} == {
        f: {n: t.dtype for n, t in file.items()} for f, file in before.items()
    }
    first, second = before
    expected = (before[first].pop(LAYER).float() + 2 * 0.25).to(torch.bfloat16)  # alpha 4 / rank 2; 2 x 0.5 x 0.25
    assert torch.equal(after[first].pop(LAYER), expected)
    for file in (first, second):
        for name, tensor in before[file].items():
            assert torch.equal(after[file][name], tensor), name
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", "LICENSE"):
        assert (out / name).read_bytes() == (small_base / name).read_bytes()


def test_an_adapter(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(capsys, small_run, "--out", out, "--base-name", "Own/Small-VL")[0] == 0
    source = small_run / "iter1/train/adapter"
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (source / weights).read_bytes()
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == "Own/Small-VL"
    assert not list(out.glob("model*"))


def test_a_run_that_trained_all_weights(small_base, run_of, tmp_path, capsys):
    """Its own checkpoint, with the processor of the base; an adapter is not to be had."""
    import torch
    from safetensors.torch import save_file

    trained = tmp_path / "trained"
    trained.mkdir()
    save_file({LAYER: torch.full((6, 4), 3.0).bfloat16()}, trained / "model.safetensors")
    (trained / "config.json").write_text('{"model_type": "qwen2_vl", "eos_token_id": 5}')
    run, out = run_of(small_base, trained, name="model"), tmp_path / "out"
    assert export(capsys, run, "--out", out) == (0, f"{out}: weights of iteration 1\n", "")
    assert [(name, list(file)) for name, file in tensors(out).items()] == [("model.safetensors", [LAYER])]
    assert torch.equal(tensors(out)["model.safetensors"][LAYER], torch.full((6, 4), 3.0).bfloat16())
    assert (out / "config.json").read_bytes() == (trained / "config.json").read_bytes()
    assert (out / "preprocessor_config.json").is_file()
    front, text = card_of(out)
    assert front["library_name"] == "transformers"
    assert "All weights were trained." in text
    assert "None" not in text


@pytest.mark.parametrize("merged", [True, False])
def test_processor_and_generation(small_run, small_base, tmp_path, capsys, merged):
    """The run's pixel limits, special tokens, and none of the settings that a server would apply unasked."""
    out = tmp_path / "out"
    export(capsys, small_run, "--out", out, *(["--merged"] if merged else []))
    image = read_json(out / "preprocessor_config.json")
    assert (image["size"], image["min_pixels"], image["max_pixels"]) == (
        {"shortest_edge": 3136, "longest_edge": 50176}, 3136, 50176,
    )  # fmt: skip
    generation = read_json(out / "generation_config.json")
    assert generation == {"do_sample": False, "bos_token_id": 7, "eos_token_id": [5, 6], "pad_token_id": 6}
    assert TRAPS.items() <= read_json(small_base / "generation_config.json").items()


def test_the_card_says_what_the_run_measured(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, small_run, "--out", out, "--base-name", "Own/Small-VL", "--data", tmp_path / "rows")
    front, text = card_of(out)
    assert front == {
        "license": "apache-2.0", "base_model": "Own/Small-VL", "library_name": "peft",
        "pipeline_tag": "image-text-to-text", "tags": ["selftrain", "lora"],
    }  # fmt: skip
    metrics = read_json(small_run / "metrics.json")
    for row in metrics["iterations"]:
        who = "base" if row["iteration"] == 0 else "iteration 1"
        for split, result in row["eval"].items():
            score = result["strategies"]["greedy"]
            shown = f"{100 * score['accuracy']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
            cells = [cell.strip() for line in text.splitlines() for cell in [line] if line.startswith(f"| {split} ")]
            assert any(who in line and "Greedy" in line and shown in line for line in cells), (split, who, shown)
            tokens = score["tokens_per_problem"]
            assert any(f"| {round(tokens['generated'])} | {round(tokens['prompt'])} |" in line for line in cells)
    assert f"selftrain, version {metrics['run']['judge']}" in text
    for said in ("Base model: apache-2.0", "generated by selftrain", "source: minigeo", "--enable-lora", "lmms_eval",
                 "VLMEvalKit", "(A) FIRST CHOICE", "PeftModel.from_pretrained", "which dev chose"):  # fmt: skip
        assert said in text, said
    assert str(tmp_path) not in text
    assert "[[" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("card", "front", "said"),
    [
        ("---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x\n---\n",
         {"license": "other", "license_name": "qwen", "license_link": "https://x"}, "other, qwen, https://x"),
        ("no front matter", {}, "not stated in the base model's folder"),
        ("---\n- a list\n---\n", {}, "not stated in the base model's folder"),
    ],
)  # fmt: skip
def test_the_licence_of_the_base(small_run, small_base, tmp_path, capsys, card, front, said):
    (small_base / "README.md").write_text(card)
    assert export(capsys, small_run, "--out", tmp_path / "out")[0] == 0
    found, text = card_of(tmp_path / "out")
    assert {key: value for key, value in found.items() if key.startswith("license")} == front
    assert f"Base model: {said}." in text
    assert "--max-lora-rank 8 " in text  # of an adapter of rank 2: vLLM takes few ranks


def test_training_rows_load(small_run, tmp_path, capsys):
    """As `datasets` loads a folder; images are those that the model saw; every row of the run is there."""
    import datasets

    rows = tmp_path / "rows"
    export(capsys, small_run, "--out", tmp_path / "out", "--data", rows)
    loaded = datasets.load_dataset(str(rows), split="train", cache_dir=str(tmp_path / "cache"))
    examples = [json.loads(line) for line in (small_run / "iter1/build/examples.jsonl").read_text().splitlines()]
    assert len(loaded) == len(examples)
    by_id = {row["id"]: row for row in loaded}
    assert any(example.get("history") for example in examples)
    for example in examples:
        row = by_id[example["id"]]
        user, assistant = row["messages"]
        assert user["content"].count("<image>") == len(row["images"]) == 1
        assert user["content"].replace("<image>", "") == example["prompt"].replace("<image>", "")
        begun = "".join(attempt + ignore for attempt, ignore in example.get("history", []))
        assert assistant == {"role": "assistant", "content": begun + example["target"]}
        assert row["images"][0].size[0] % 28 == 0
    front, text = card_of(rows)
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert "none needed: the problems are generated" in text


# ---- what is refused -----------------------------------------------------------------------------------------------


def unfinished(run: Path) -> None:
    (run / "metrics.json").unlink()


def base_accepted(run: Path) -> None:
    write_json(run / "metrics.json", {**read_json(run / "metrics.json"), "accepted": 0})


def nothing_accepted(run: Path) -> None:
    write_json(run / "metrics.json", {**read_json(run / "metrics.json"), "accepted": None})


def torn_metrics(run: Path) -> None:
    (run / "metrics.json").write_text((run / "metrics.json").read_text()[:200])


def torn_adapter(run: Path) -> None:
    path = run / "iter1/train/adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def no_stage(run: Path) -> None:
    shutil.rmtree(run / "iter1/build")


def no_weights(run: Path) -> None:
    shutil.rmtree(run / "iter1/train/adapter")


def no_base(run: Path) -> None:
    shutil.rmtree(read_json(run / "config.json")["model"]["path"])


def other_base(run: Path) -> None:
    path = Path(read_json(run / "config.json")["model"]["path"]) / "tokenizer.json"
    path.write_text('{"other": 1}')


def no_processor(run: Path) -> None:
    (Path(read_json(run / "config.json")["model"]["path"]) / "preprocessor_config.json").unlink()
    identity = read_json(run / "identity.json")
    from selftrain.export.source import _Digests
    from selftrain.sampling.weights import weights_digest

    base = Path(read_json(run / "config.json")["model"]["path"])
    identity["inputs"]["model"] = weights_digest(_Digests(), base, None)
    write_json(run / "identity.json", identity)


def torn_card(run: Path) -> None:
    (Path(read_json(run / "config.json")["model"]["path"]) / "README.md").write_text("---\nlicense: [\n---\n")


def rehearsed(run: Path) -> None:
    write_json(run / "config.json", {**read_json(run / "config.json"), "engine": {"kind": "scripted"}})


def no_run(run: Path) -> None:
    (run / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_run, "is not a run folder"),
        (unfinished, r"is not finished \(it has no metrics\.json\); run its command again"),
        (base_accepted, r"the accepted iteration is the base model.*--iteration K \(trained: 1\)"),
        (nothing_accepted, "was not chosen yet"),
        (torn_metrics, r"metrics\.json is damaged"),
        (torn_adapter, r"adapter_model\.safetensors is not what the run wrote; restore it, or delete"),
        (no_stage, r"iter1/build/stage\.json is missing"),
        (no_weights, "holds neither an adapter nor weights"),
        (no_base, r"the base model is not at .*--base DIR"),
        (other_base, "is not the base model of"),
        (torn_card, r"README\.md: its first block is not YAML"),
        (no_processor, "holds no image processor"),
        (rehearsed, "is a rehearsal: it trained nothing"),
    ],
)
def test_a_run_that_cannot_be_exported(small_run, tmp_path, capsys, harm, message):
    harm(small_run)
    out = tmp_path / "out"
    status, said, error = export(capsys, small_run, "--out", out, "--merged")
    assert (status, said) == (2, "")
    assert re.search(message, error), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--iteration", "7"], "has no iteration 7; trained: 1"),
        (["--prompts", "x"], "--prompts needs --reward"),
        (["--reward", "--merged"], "--merged does not go with --reward"),
        (["--push", "mine"], "'mine' names no repository; write --push OWNER/NAME"),
        (["--push", "me/mine"], "set the environment variable HF_TOKEN"),
    ],
)
def test_wrong_words(small_run, tmp_path, capsys, words, message):
    status, _, error = export(capsys, small_run, "--out", tmp_path / "out", *words)
    assert status == 2
    assert message in error
    assert not (tmp_path / "out").exists()


def test_no_run_is_named(tmp_path, capsys):
    assert "name the run folder" in export(capsys, "--out", tmp_path / "out")[2]


def test_an_iteration_that_dev_did_not_choose(small_run, tmp_path, capsys):
    base_accepted(small_run)
    out = tmp_path / "out"
    assert export(capsys, small_run, "--out", out, "--iteration", 1)[0] == 0
    assert "which dev did not choose" in card_of(out)[1]


def test_a_base_that_was_moved(small_run, small_base, tmp_path, capsys):
    small_base.rename(tmp_path / "elsewhere")
    found = export(capsys, small_run, "--out", tmp_path / "out", "--merged", "--base", tmp_path / "elsewhere")
    assert found[0] == 0, found[2]


# ---- whole or not at all -------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    status, _, error = export(capsys, small_run, "--out", out)
    assert status == 2
    assert "is not empty; choose another folder, or replace it with --overwrite" in error
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert export(capsys, small_run, "--out", out, "--overwrite")[0] == 0
    assert not (out / "mine.txt").exists()
    assert (out / MANIFEST).is_file()


@pytest.mark.slow
def test_the_same_export_again_is_kept(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, small_run, "--out", out)
    stamp = (out / "README.md").stat().st_mtime_ns
    assert export(capsys, small_run, "--out", out)[1] == f"{out}: adapter of iteration 1, already there\n"
    assert (out / "README.md").stat().st_mtime_ns == stamp
    assert "is not empty" in export(capsys, small_run, "--out", out, "--merged")[2]


def test_an_export_that_fails_leaves_nothing(small_run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("selftrain.export.export.model_card", lambda *args, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(capsys, small_run, "--out", out)
    assert not out.exists()
    assert export(capsys, small_run, "--out", out)[0] == 0  # what was left aside is not in the way
    assert not list(tmp_path.glob("*.partial"))


# ---- uploads -------------------------------------------------------------------------------------------------------


class Hub:
    """Stands in for huggingface_hub.HfApi, and checks that the real one takes the same arguments."""

    def __init__(self, fails: int = 0) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.fails = fails

    def __call__(self, token: str) -> Hub:
        self.token = token
        return self

    def _note(self, name: str, *args, **more) -> None:
        bound = inspect.signature(getattr(HfApi, name)).bind(None, *args, **more)
        self.calls.append((name, dict(bound.arguments)))

    def create_repo(self, *args, **more) -> str:
        self._note("create_repo", *args, **more)
        return f"https://hub/{args[0]}"

    def upload_folder(self, *args, **more) -> None:
        self._note("upload_folder", *args, **more)
        if self.fails:
            self.fails -= 1
            raise OSError("the connection broke")


def test_push(small_run, tmp_path, capsys, monkeypatch):
    """A failed upload keeps the folder, and the same command goes on from there."""
    stand_in = Hub(fails=1)
    monkeypatch.setattr("huggingface_hub.HfApi", stand_in)
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    out, rows = tmp_path / "out", tmp_path / "rows"
    words = (small_run, "--out", out, "--data", rows, "--push", "me/mine")
    status, _, error = export(capsys, *words)
    assert status == 4
    assert "upload failed: me/mine: the connection broke" in error
    assert "is whole, and the same command uploads it" in error
    stand_in.calls.clear()
    status, said, error = export(capsys, *words)
    assert status == 0, error
    assert said.splitlines() == [
        f"{out}: adapter of iteration 1, already there", f"{rows}: training rows, already there",
        "https://hub/me/mine", "https://hub/me/mine-data",
    ]  # fmt: skip
    assert [(name, call["repo_id"], call["repo_type"]) for name, call in stand_in.calls] == [
        ("create_repo", "me/mine", "model"), ("upload_folder", "me/mine", "model"),
        ("create_repo", "me/mine-data", "dataset"), ("upload_folder", "me/mine-data", "dataset"),
    ]  # fmt: skip
    assert all(call["private"] for name, call in stand_in.calls if name == "create_repo")
    assert stand_in.calls[1][1]["folder_path"] == out
    assert stand_in.token == "secret-token"
    assert card_of(out)[0]["datasets"] == ["me/mine-data"]
    for path in [*out.rglob("*"), *rows.rglob("*")]:
        assert b"secret-token" not in path.read_bytes()


def test_no_token_is_said_before_any_work(small_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("selftrain.export.export.exported", lambda *args: 1 / 0)
    status, _, error = export(capsys, small_run, "--out", tmp_path / "out", "--push", "me/mine")
    assert status == 2
    assert hub.TOKEN in error


# ---- other programs load it ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_adapter(tmp_path_factory) -> Path:
    return random_adapter(TINY, tmp_path_factory.mktemp("trained") / "adapter", size=0.02)


@pytest.fixture
def exports(run_of, tiny_adapter, tmp_path, capsys) -> tuple[Path, Path]:
    """The tiny model with an adapter: merged, and the adapter alone."""
    run = run_of(TINY, tiny_adapter)
    merged, adapter = tmp_path / "merged", tmp_path / "exported-adapter"
    for out, more in ((merged, ["--merged"]), (adapter, [])):
        assert export(capsys, run, "--out", out, *more)[0] == 0
    return merged, adapter


@pytest.mark.slow
def test_transformers_and_peft_load_it(exports, tiny_adapter, problems_and_pictures):
    """Plain `generate` with the exported files alone answers as our engine does with base and adapter."""
    import torch
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from selftrain.engine_settings import HFSettings
    from selftrain.engines.base import Request, SamplingParams
    from selftrain.engines.hf import HFEngine

    torch.set_num_threads(1)
    merged, adapter = exports
    prompt, (picture,) = problems_and_pictures[0]
    with HFEngine(TINY, tiny_adapter, settings=HFSettings(device="cpu", dtype="float32")) as engine:
        params = SamplingParams(temperature=0, max_tokens=40)
        expected = engine.generate([Request("r", prompt, (picture,), (0,))], params)[0][0].text
    base = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    own = AutoModelForImageTextToText.from_pretrained(merged, dtype="auto")
    assert own.dtype == torch.bfloat16  # the base's
    adapted = PeftModel.from_pretrained(base, str(adapter))
    stored = {name: tensor.float() for name, tensor in own.state_dict().items()}
    wanted = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    wanted = PeftModel.from_pretrained(wanted, str(tiny_adapter)).merge_and_unload()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(stored[name], tensor.bfloat16().float()), name
    processor = AutoProcessor.from_pretrained(adapter)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(picture)], return_tensors="pt")
    for model in (adapted, wanted):
        ids = model.generate(**inputs, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(ids, skip_special_tokens=True).strip() == expected.strip()
    again = AutoProcessor.from_pretrained(merged)
    assert dict(again.image_processor.size)["longest_edge"] == 50176
    assert own.generation_config.do_sample is False


@needs_vllm
@pytest.mark.slow
def test_vllm_loads_it(exports, problems_and_pictures):
    """Merged weights in vLLM against transformers, as the engines are compared."""
    from selftrain.engine_settings import HFSettings, VLLMSettings
    from selftrain.engines.base import Request
    from selftrain.engines.hf import HFEngine
    from selftrain.engines.parity import compare, expectations
    from selftrain.engines.vllm_offline import VLLMEngine

    merged, _ = exports
    requests = [Request(f"r{i}", prompt, images, (0,)) for i, (prompt, images) in enumerate(problems_and_pictures[:4])]
    with HFEngine(merged, settings=HFSettings(device="cpu", dtype="float32")) as reference:
        expected = expectations(reference, requests, 40)
    settings = VLLMSettings(interpreter=Path(VLLM_PYTHON or ""), batch_size=8, max_model_len=1024, dtype="float32")
    with VLLMEngine(merged, settings=settings) as engine:
        report = compare(engine, expected, 40, "float32")  # raises where they differ further than rounding
    assert report["problems"] == 4
