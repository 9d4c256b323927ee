"""Training, with a stand-in for LLaMA-Factory where only our side matters, and the real one in the slow tests."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data_process.building.sharegpt import to_row
from data_process.images.opening import ImageError
from data_process.images.store import ImageStore
from data_process.schema import DataError, Example
from selftrain.environment import DeviceError
from selftrain.families import FAMILIES, QWEN2_VL
from selftrain.processes.child import LOG_LINES
from selftrain.training import hyperparameters, launcher, llamafactory
from selftrain.training.adapter import AdapterError, check_adapter, merge, shape_of, verify_weights
from selftrain.training.hyperparameters import HyperparameterError, TrainingError, TrainingSettings, divide_batch
from selftrain.training.llamafactory import train
from selftrain.training.row_lengths import PreflightReport, frame_of, preflight, row_lengths
from selftrain.training.weight_files import header_of
from tests.selftrain import nano_models

CONFIGS = Path(__file__).parents[3] / "configs" / "llamafactory"
LIMITS = (56 * 56, 224 * 224)
SHAPE = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}


def example(
    i: int, prompt: str = "How large is B?", target: str = "Answer: (B)", images: tuple[str, ...] = ()
) -> Example:
    return Example(f"e{i}", "cot", f"p{i}", prompt, target, images)


def save_adapter(folder: Path, values: list[float], name: str = "x.lora_B.weight", shape: dict = SHAPE) -> Path:
    """An adapter of one float32 tensor, by hand."""
    data = np.asarray(values, dtype="<f4").tobytes()
    entry = {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}
    header = json.dumps({name: entry, "__metadata__": {"format": "pt"}}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    (folder / "adapter_config.json").write_text(json.dumps(shape))
    return folder


# --- the adapter --------------------------------------------------------------------------------------------------


def test_a_trained_adapter_passes(tmp_path):
    check_adapter(save_adapter(tmp_path, [0.0, 1e-3]))


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        ([0.0, 0.0], "x.lora_B.weight", "untrained"),
        ([1.0, 2.0], "x.lora_A.weight", "untrained"),
        ([1.0, math.nan], "x.lora_B.weight", "NaN or infinity in 1 of 1"),
        ([1.0, -math.inf], "x.lora_A.weight", "NaN or infinity"),
    ],
)
def test_a_bad_adapter_does_not(tmp_path, values, name, message):
    with pytest.raises(AdapterError, match=message):
        check_adapter(save_adapter(tmp_path, values, name))


@pytest.mark.parametrize("length", [0, 5, 40, 150])
def test_a_cut_adapter_does_not(tmp_path, length):
    weights = save_adapter(tmp_path, [1.0] * 100) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        check_adapter(tmp_path)


@pytest.mark.parametrize("text", ["", "[" * 10**5, "3", "[]", "null", "{}", '{"r": 8}'])
def test_a_damaged_config_of_an_adapter(tmp_path, text):
    (save_adapter(tmp_path, [1.0]) / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match="is not a LoRA adapter"):
        shape_of(tmp_path)


@pytest.mark.parametrize("header", [b"", b"[" * 10**5, b"3", b"[]", b"null", b"{}", b'{"a": {"data_offsets": [0]}}'])
@pytest.mark.parametrize("length", [None, 2**62])
def test_a_damaged_header(tmp_path, header, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header)
    with pytest.raises(DataError, match="is not a whole safetensors file"):
        header_of(path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_half_adapter_does_not(tmp_path, name):
    (save_adapter(tmp_path, [1.0]) / name).unlink()
    with pytest.raises(AdapterError, match=name):
        check_adapter(tmp_path)


def test_bfloat16_is_read(tmp_path):
    header = json.dumps({"a.lora_B": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    save_adapter(tmp_path, [1.0])
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes([0, 0, 0x80, 0x3F]))  # 0 and 1
    check_adapter(tmp_path)
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes([0, 0, 0x80, 0x7F]))  # 0 and infinity
    with pytest.raises(AdapterError, match="NaN or infinity"):
        check_adapter(tmp_path)


# --- hyper-parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "per_device", "processes", "steps"), [(64, 8, 1, 8), (64, 2, 8, 4), (64, 64, 1, 1), (60, 4, 3, 5)]
)
def test_global_batch_is_exact(batch, per_device, processes, steps):
    assert divide_batch(batch, per_device, processes) == steps
    assert per_device * processes * steps == batch


@pytest.mark.parametrize(
    ("batch", "per_device", "processes", "advice"),
    [
        (64, 2, 3, "1 or 2 processes, or a global_batch_size of 60 or 66"),  # R3V's case: it trained with 60
        (64, 5, 1, "per_device_batch can be 1, 2, 4, 8, 16, 32, 64"),
        (64, 128, 1, "per_device_batch can be 1, 2, 4, 8, 16, 32, 64"),
        (4, 1, 8, "1 or 2 or 4 processes, or a global_batch_size of 8"),
    ],
)
def test_inexact_global_batch_says_what_would_work(batch, per_device, processes, advice):
    with pytest.raises(HyperparameterError, match=f"{batch} is not a multiple.*{advice}"):
        divide_batch(batch, per_device, processes)


@pytest.mark.parametrize(("name", "global_batch"), [("tiny_lora.yaml", 32), ("qwen2vl_7b_lora.yaml", 64)])
def test_shipped_hyperparameters_are_known(name, global_batch):
    values = hyperparameters.read_hyperparameters(CONFIGS / name, {}, Path(sys.executable))
    assert values["global_batch_size"] == global_batch
    assert all(isinstance(values[key], float) for key in ("learning_rate", "adam_epsilon", "weight_decay"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("learning_rat: 1\nglobal_batch_size: 8", {}, "learning_rat .*did you mean learning_rate"),
        ("global_batch_size: 8", {"lora_rnak": 3}, r"lora_rnak \(overrides\).*did you mean lora_rank"),
        ("global_batch_size: 8\nxqzjw: 1", {}, "xqzjw .*is not a setting"),
        (
            "global_batch_size: 8\nmax_length: 2048",
            {},
            "max_length .*is not a setting",
        ),  # R3V's slip: a generation option
        ("global_batch_size: 8\ncutoff_len: 2048", {}, "cutoff_len .*is set by the loop"),
        ("global_batch_size: 8", {"seed": 3}, "seed .*is set by the loop"),
        ("global_batch_size: 8\nsave_strategy: epoch", {}, "save_strategy .*is set by the loop"),
        ("global_batch_size: 8\ndeepspeed: gone.json", {}, "gone.json does not exist; correct deepspeed"),
        ("extends: gone.yaml", {}, "cannot read.*gone.yaml"),
        ("learning_rate: 1", {}, "global_batch_size .*not None"),
        ("global_batch_size: true", {}, "global_batch_size .*not True"),
        ("global_batch_size: 0", {}, "global_batch_size .*not 0"),
        ("- a\n- b", {}, "key: value"),
        ("a: [", {}, "cannot read"),
    ],
)
def test_unusable_hyperparameters(tmp_path, content, overrides, message):
    (tmp_path / "h.yaml").write_text(content)
    with pytest.raises(HyperparameterError, match=message):
        hyperparameters.read_hyperparameters(tmp_path / "h.yaml", overrides, Path(sys.executable))


def test_missing_file_and_missing_llamafactory(tmp_path):
    with pytest.raises(HyperparameterError, match="cannot read"):
        hyperparameters.read_hyperparameters(tmp_path / "none.yaml", {}, Path(sys.executable))
    with pytest.raises(DeviceError, match="cannot run"):
        hyperparameters.known_fields(tmp_path / "python")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(TrainingError, match="has no LLaMA-Factory"):
        hyperparameters.known_fields(bare)


@pytest.mark.slow
def test_known_fields_are_those_of_the_dataclasses():
    import dataclasses

    from llamafactory.hparams import parser

    groups = [group for group in parser._TRAIN_ARGS if group is not parser.GeneratingArguments]
    theirs = {field.name for group in groups for field in dataclasses.fields(group) if field.init}
    assert hyperparameters.known_fields(Path(sys.executable)) == theirs
    assert theirs >= hyperparameters.OWNED


def resolve(tmp_path, init_adapter=None, **changes):
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", per_device_batch=8, seed=5)
    values = {"global_batch_size": 32, "lora_rank": 4, "learning_rate": 1e-3, **changes}
    return hyperparameters.resolve(values, settings, tmp_path, tmp_path / "out", 300, LIMITS, init_adapter)


def test_everything_is_explicit(tmp_path):
    resolved = resolve(tmp_path)
    assert resolved["cutoff_len"] > 300 + 1  # packing takes one away
    assert resolved["cutoff_len"] % 8 == 0
    assert (resolved["image_min_pixels"], resolved["image_max_pixels"]) == LIMITS
    assert (resolved["seed"], resolved["data_seed"]) == (5, 5)
    assert resolved["gradient_accumulation_steps"] == 4
    assert "global_batch_size" not in resolved
    assert "val_size" not in resolved
    assert "adapter_name_or_path" not in resolved
    assert resolved["trust_remote_code"] is False
    for key in ("model_name_or_path", "dataset_dir", "output_dir"):
        assert Path(resolved[key]).is_absolute()


def test_continuing_needs_the_same_shape(tmp_path):
    adapter = save_adapter(tmp_path / "previous", [1.0])
    resolved = resolve(tmp_path, adapter)
    assert resolved["adapter_name_or_path"] == str(adapter.resolve())
    assert resolved["create_new_adapter"] is False
    with pytest.raises(HyperparameterError, match=r"lora_rank is 8, but .* was trained with 4"):
        resolve(tmp_path, adapter, lora_rank=8)
    with pytest.raises(AdapterError, match="not a LoRA adapter"):
        resolve(tmp_path, tmp_path / "nowhere")


def test_an_adapter_with_a_comma_in_its_path(tmp_path):
    """LLaMA-Factory would take it for two. It runs in the folder of train.yaml."""
    run, elsewhere = tmp_path / "a, b", tmp_path / "c,d"
    run.mkdir(), elsewhere.mkdir()
    adapter = save_adapter(run / "previous", [1.0])
    assert resolve(run, adapter)["adapter_name_or_path"] == "../previous"
    with pytest.raises(HyperparameterError, match=r"c,d/other: the path has a comma; move or rename"):
        resolve(run, save_adapter(elsewhere / "other", [1.0]))


@pytest.mark.parametrize("field", ["per_device_batch", "processes", "nodes", "max_length", "threads", "save_steps"])
def test_settings_are_checked(field):
    with pytest.raises(ValueError, match=field):
        TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", **{field: 0})


def test_child_environment(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "USE_V1", "FORCE_TORCHRUN", "PYTHONDONTWRITEBYTECODE", "USE_MODELSCOPE_HUB"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", interpreter=tmp_path / "bin" / "python")
    one = launcher.child_environment(settings, {}, tmp_path)
    assert not {"RANK", "WORLD_SIZE", "USE_V1", "FORCE_TORCHRUN", "PYTHONDONTWRITEBYTECODE"} & set(one)
    assert "USE_MODELSCOPE_HUB" not in one
    assert one["NPROC_PER_NODE"] == "1"
    assert one["CUDA_VISIBLE_DEVICES"] == "3"
    assert one["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin")
    assert launcher.child_environment(settings, {"deepspeed": "z.json"}, tmp_path)["FORCE_TORCHRUN"] == "1"
    sharded = launcher.child_environment(settings, {"fsdp": "full_shard", "fsdp_config": {"version": 2}}, tmp_path)
    assert sharded["FORCE_TORCHRUN"] == "1"
    assert (sharded["FSDP_VERSION"], sharded["FSDP_STATE_DICT_TYPE"]) == ("2", "FULL_STATE_DICT")
    two = TrainingSettings(
        hyperparameters=CONFIGS / "tiny_lora.yaml", processes=2, environment={"OMP_NUM_THREADS": "7"}
    )
    assert launcher.child_environment(two, {}, tmp_path)["FORCE_TORCHRUN"] == "1"
    assert launcher.child_environment(two, {}, tmp_path)["NPROC_PER_NODE"] == "2"
    assert launcher.child_environment(two, {}, tmp_path)["OMP_NUM_THREADS"] == "7"


def test_the_errors_of_ranks_come_before_the_end_of_the_log(tmp_path):
    log = tmp_path / "train.log"
    torchrun = "".join(f"torchrun says {k}\n" for k in range(60))
    log.write_text(
        "[rank1]:   raise ValueError(\n[rank1]: ValueError: no room\n[rank0]: torch.OutOfMemoryError: CUDA\n"
        "[rank1]: ValueError: no room\n" + torchrun + "subprocess.CalledProcessError: torchrun\n"
    )
    lines = launcher.log_end(log).splitlines()
    assert lines[:3] == ["[rank1]: ValueError: no room", "[rank0]: torch.OutOfMemoryError: CUDA", f"end of {log}:"]
    assert lines[-1] == "subprocess.CalledProcessError: torchrun"
    assert len(lines) == 3 + LOG_LINES


def test_follow_gives_whole_lines_once(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = launcher.follow(log)
    assert next(lines) == []
    log.write_text('{"a": 1}\n{"a":')
    assert next(lines) == [{"a": 1}]
    assert next(lines) == []
    with log.open("a") as file:
        file.write(" 2}\n\n")
    assert next(lines) == [{"a": 2}]


# --- the pre-flight -----------------------------------------------------------------------------------------------


class OneTokenPerCharacter:
    """A processor whose tokenizer counts characters and whose template is Qwen2-VL's in small."""

    finished = "<end>"

    def tokenizer(self, texts, add_special_tokens, return_attention_mask):
        assert not add_special_tokens
        return {"input_ids": [list(text) for text in texts]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        text = ""
        for message in messages:
            parts = "".join("*" if p["type"] == "image" else p["text"] for p in message["content"])
            text += f"[{message['role']}]{parts}{self.finished}"
        return text + "[assistant]" * add_generation_prompt


def test_row_lengths_count_the_image():
    rows = [example(0, "12345", "123"), example(1, "12345", "123", ("a.png",))]
    around = len("[user]<end>[assistant]<end>")
    assert row_lengths(rows, OneTokenPerCharacter(), {"a.png": 16}) == [around + 8, around + 8 + 16]
    several = [example(2, "12<image>345<image>", "123", ("b.png", "a.png", "a.png"))]
    assert row_lengths(several, OneTokenPerCharacter(), {"a.png": 16, "b.png": 4}) == [around + 8 + 4 + 2 * 16]


def test_frame_refuses_a_template_that_changes_a_finished_answer():
    class Thinking(OneTokenPerCharacter):
        def apply_chat_template(self, messages, **options):
            text = super().apply_chat_template(messages, **options)
            return text.replace("[assistant]", "[assistant]<think>") if len(messages) == 1 else text

    assert frame_of(OneTokenPerCharacter()).between == "<end>[assistant]"
    with pytest.raises(DataError, match="chat template"):
        frame_of(Thinking())


# --- the child, with a stand-in for LLaMA-Factory -----------------------------------------------------------------

STAND_IN = """
    import json, os, signal, subprocess, sys, time, yaml
    from pathlib import Path

    assert sys.argv[1:] == ["-m", "llamafactory.cli", "train", "train.yaml"], sys.argv
    config = yaml.safe_load(Path("train.yaml").read_text())
    rows = Path(config["dataset_dir"], "train.jsonl").read_text().count("\\n")
    act, adapter = os.environ["ACT"], Path(config["output_dir"])
    print("Num examples =", rows - (act == "fewer rows"))
    if act == "fail":
        sys.exit("the reason")
    if act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker = subprocess.Popen(["sleep", "300"], start_new_session=True)  # as torchrun starts its ranks
        Path("pids").write_text(f"{os.getpid()} {worker.pid}")
        time.sleep(3000)
    adapter.mkdir()
    for step in (1, 2):
        with open(adapter / "trainer_log.jsonl", "a") as log:
            log.write(json.dumps({"current_steps": step, "total_steps": 2, "loss": 3 - step}) + "\\n")
    loss = float("nan") if act == "nan loss" else 1.5
    (adapter / "train_results.json").write_text(json.dumps({"train_loss": loss}))
    (adapter / "trainer_state.json").write_text(json.dumps({"global_step": 2}))
    if act != "no adapter":
        source = Path(os.environ["ADAPTER"])
        for file in source.iterdir():
            (adapter / file.name).write_bytes(file.read_bytes())
"""


@pytest.fixture
def stand_in(tmp_path):
    """stand_in(act): settings whose interpreter plays LLaMA-Factory."""
    script, interpreter = tmp_path / "stand_in.py", tmp_path / "python"
    script.write_text(textwrap.dedent(STAND_IN))
    interpreter.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" "$@"\nexec "{sys.executable}" "{script}" "$@"\n'
    )
    interpreter.chmod(0o755)

    def make(act: str, values=(0.5, 0.0)) -> TrainingSettings:
        adapter = save_adapter(tmp_path / "source", list(values))
        return TrainingSettings(
            hyperparameters=CONFIGS / "tiny_lora.yaml",
            interpreter=interpreter,
            environment={"ACT": act, "ADAPTER": str(adapter)},
        )

    return make


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(settings): train on three rows without measuring them."""
    monkeypatch.setattr(launcher, "STOP_GRACE", 0.3)
    monkeypatch.setattr(
        llamafactory, "preflight", lambda rows, *_: PreflightReport([100, 120], list(rows[:2]), Counter(too_long=1))
    )
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')

    def go(settings: TrainingSettings, **options):
        return train(
            [example(i) for i in range(3)],
            settings=settings,
            base_model=tmp_path,
            image_path=Path,
            out=tmp_path / "a folder",  # with a blank, where torchrun's command line would be split
            image_limits=LIMITS,
            **options,
        )

    return go


def test_train_returns_a_checked_adapter(run, stand_in, tmp_path):
    progress = []
    before = (CONFIGS / "tiny_lora.yaml").read_bytes()
    result = run(stand_in("fine"), on_progress=progress.append)
    assert result.weights == tmp_path / "a folder" / "adapter"
    assert (result.steps, result.train_loss, result.rows, result.dropped) == (2, 1.5, 2, {"too_long": 1})
    assert [line["current_steps"] for line in progress] == [1, 2]
    assert yaml.safe_load((tmp_path / "a folder" / "train.yaml").read_text()) == result.resolved
    assert (CONFIGS / "tiny_lora.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("fail", "failed with status 1(.|\n)*the reason"),
        ("killed", "was ended by signal 9(.|\n)*Num examples"),
        ("no adapter", "has no adapter_config.json(.|\n)*train.log"),
        ("nan loss", "did not converge: loss nan"),
        ("fewer rows", "trained on 1 rows of 2"),
    ],
)
def test_what_can_go_wrong_in_the_child(run, stand_in, act, message):
    with pytest.raises(TrainingError, match=message):
        run(stand_in(act))


@pytest.mark.slow
def test_nan_and_untrained_adapters_are_refused(run, stand_in, tmp_path):
    with pytest.raises(TrainingError, match="NaN or infinity"):
        run(stand_in("fine", values=[math.nan]))
    with pytest.raises(TrainingError, match="not empty"):
        run(stand_in("fine"))
    (tmp_path / "a folder").rename(tmp_path / "aside")
    with pytest.raises(TrainingError, match="untrained"):
        run(stand_in("fine", values=[0.0]))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z" if Path("/proc").exists() else True


def wait_for(condition, seconds: float = 300.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def pids_in(folder: Path) -> list[int]:
    file = folder / "pids"
    assert wait_for(lambda: file.is_file() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finding processes of other sessions needs /proc")
def test_an_interrupt_ends_every_process(run, stand_in, tmp_path):
    pids = []

    def interrupt() -> None:
        pids.extend(pids_in(tmp_path / "a folder"))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(stand_in("hang"))
    assert len(pids) == 2
    assert wait_for(lambda: not any(map(alive, pids)), 300)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finding processes of other sessions needs /proc")
def test_no_orphans_when_our_process_group_is_killed(stand_in, tmp_path):
    settings = stand_in("hang")
    (tmp_path / "out").mkdir()
    program = textwrap.dedent(f"""
        from pathlib import Path
        from selftrain.training import hyperparameters, launcher
        launcher.STOP_GRACE = 0.3
        settings = hyperparameters.TrainingSettings(
            hyperparameters=Path("x"), interpreter=Path({str(settings.interpreter)!r}),
            environment={settings.environment!r})
        resolved = {{"output_dir": {str(tmp_path / "out" / "adapter")!r}}}
        launcher.run_child(settings, resolved, Path({str(tmp_path / "out")!r}), print)
    """)
    (tmp_path / "out" / "data").mkdir()
    (tmp_path / "out" / "data" / "train.jsonl").write_text("{}\n")
    config = {"dataset_dir": str(tmp_path / "out" / "data"), "output_dir": str(tmp_path / "out" / "adapter")}
    (tmp_path / "out" / "train.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    try:
        pids = pids_in(tmp_path / "out")
        assert all(map(alive, pids))
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # as a scheduler does, or `kill -9 -- -PID`
        parent.wait()
    assert wait_for(lambda: not any(map(alive, pids)), 300)


@pytest.mark.slow
def test_importing_needs_no_torch():
    code = (
        "import sys, selftrain.training.llamafactory, selftrain.training.dry_run, data_process.images.store, "
        "selftrain.training.row_lengths; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy', 'PIL')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# --- with the real LLaMA-Factory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ImageStore:
    """16 pictures, 0.png to 15.png, of a few sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(16):
        size = [(112, 112), (140, 112), (100, 90), (300, 40)][i % 4]
        noise = random.Random(i).randbytes(size[0] * size[1])
        Image.frombytes("L", size, noise).save(folder / f"{i}.png")
    return ImageStore(folder / "store", folder, min_pixels=LIMITS[0], max_pixels=LIMITS[1])


def rows(n: int) -> list[Example]:
    """Some with an image, some without, of different lengths."""
    words = ["angle", "circle", "is", "half", "of", "the", "line", "40"]
    return [
        example(
            i,
            " ".join(random.Random(i).choices(words, k=5 + i % 20)),
            f"Because of that.\nAnswer: ({'ABCD'[i % 4]})",
            (f"{i % 16}.png",) if i % 5 else (),
        )
        for i in range(n)
    ]


def content_of(row: Example) -> list[dict[str, str]]:
    """The user turn in the chat template's form."""
    content = [{"type": "image"}] * (len(row.images) - row.prompt.count("<image>"))
    for part in re.split("(<image>)", row.prompt):
        content.append({"type": "image"} if part == "<image>" else {"type": "text", "text": part})
    return content


@pytest.mark.slow
def test_preflight_with_the_real_tokenizer(tiny_model_path, store):
    from transformers import AutoProcessor

    several = [
        example(97, "is <image> half of <image> or 40", images=("0.png", "1.png")),
        example(98, "the circle in <image>", images=("3.png", "2.png", "3.png")),
    ]
    given = [*several, *rows(40), example(99, target="<image>"), example(100, prompt="very " * 500)]
    report = preflight(given, tiny_model_path, store.path, 200, 0.1)
    assert report.dropped == {"too_long": 1, "mark_in_target": 1}
    assert len(report.kept) + report.dropped.total() == len(given)
    processor = AutoProcessor.from_pretrained(tiny_model_path)
    for row, length in zip(report.kept, report.lengths, strict=True):
        content = content_of(row)
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}, {"role": "assistant", "content": row.target}]
        )
        images = [Image.open(store.path(image)) for image in row.images] or None
        assert processor(text=[text], images=images)["input_ids"][0].__len__() == length
    with pytest.raises(DataError, match=r"e100, has \d+ tokens of 200"):
        preflight(given, tiny_model_path, store.path, 200, 0.01)
    with pytest.raises(DataError, match="no examples"):
        preflight([], tiny_model_path, store.path, 200)


@pytest.mark.slow
def test_preflight_refuses_pictures_the_checkpoint_would_resize(tiny_model_path, store):
    picture = store.root / "large.png"
    Image.new("RGB", (448, 448)).save(picture)
    with pytest.raises(ImageError, match="limits within those"):
        preflight([example(0, images=("x",))], tiny_model_path, lambda _: picture, 2000)
    with pytest.raises(ImageError, match="no canonical image"):
        preflight([example(0, images=("x",))], tiny_model_path, lambda _: store.root / "gone.png", 2000)


@pytest.mark.slow
def test_real_training_then_continuing_then_merging(tiny_model_path, store, tmp_path):
    overrides = {"global_batch_size": 8, "num_train_epochs": 1, "lora_rank": 4, "lora_alpha": 8}
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=overrides, per_device_batch=4)
    shared = {"settings": settings, "base_model": tiny_model_path, "image_path": store.path, "image_limits": LIMITS}
    runs, progress = tmp_path / "runs, two", []  # a comma ends the name of an adapter for LLaMA-Factory
    runs.mkdir()
    first = train(rows(24), out=runs / "first", on_progress=progress.append, **shared)
    assert (first.steps, first.rows) == (3, 24)
    assert [line["current_steps"] for line in progress if "loss" in line] == [1, 2, 3]
    config = json.loads((first.weights / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert not (runs / "first" / "cache").exists()

    changed = verify_weights(tiny_model_path, first.weights, "How large is B?", [store.path("0.png")])
    assert changed > 0

    second = train(rows(24), out=runs / "second", start=first.weights, **shared)
    assert second.train_loss < first.train_loss  # it went on from the first one's weights
    again = verify_weights(tiny_model_path, second.weights, "How large is B?", [store.path("0.png")])
    assert again != changed

    merged = merge(tiny_model_path, second.weights, tmp_path / "merged")
    names = {file.name for file in merged.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    untrained = tmp_path / "untrained"
    zero_adapter(second.weights, untrained)
    with pytest.raises(AdapterError, match="does not change"):
        verify_weights(tiny_model_path, untrained, "How large is B?")


def zero_adapter(source: Path, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    out.mkdir()
    (out / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({name: value * 0 for name, value in tensors.items()}, out / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("qwen2_vl", 200), ("qwen3_vl", 60)])
def test_training_and_sampling_see_the_same_tokens_and_pixels(kind, count, tiny_model_path, tmp_path):
    """Pictures of random sizes: what LLaMA-Factory trains on is what the processor gives an engine."""
    import torch
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from transformers import AutoProcessor

    draw = random.Random(0)
    folder = tmp_path / "data"
    folder.mkdir()
    family = FAMILIES[kind]
    base = tiny_model_path if family == QWEN2_VL else nano_models.write(kind, tmp_path / "base")
    low, high = limits = nano_models.limits_of(family)
    store = ImageStore(tmp_path / "store", folder, min_pixels=low, max_pixels=high, patch=family.token_side)
    examples = []
    for i in range(count):
        height = int(10 ** draw.uniform(0.3, 2.8))
        width = max(1, min(int(height * 10 ** draw.uniform(-2.2, 2.2)), 199 * height, 3000))
        height = min(height, 199 * width)
        Image.frombytes("L", (width, height), draw.randbytes(width * height)).save(folder / f"{i}.png")
        target = draw.choice(["Answer: (B)", "\nAnswer:\n 12", " So B.  ", "é 40° <b> {x}\n\n"])
        images = (*(f"{draw.randrange(i + 1)}.png" for _ in range(i % 4)), f"{i}.png")
        prompt = draw.choice(["How large is B?", " \nB?\n", "a {b}\n\n(A) 3"])
        if len(images) > 1:  # the last ones in the text, the others first
            prompt += draw.choice(["in <image>", "\n(B) <image>\n(C) <image> or"])
        examples.append(example(i, prompt, target, images))
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml")
    values = hyperparameters.read_hyperparameters(settings.hyperparameters, {}, settings.interpreter)
    report = preflight(examples, base, store.path, 2048)
    assert len(report.kept) == count
    longest = max(report.lengths)
    resolved = hyperparameters.resolve(values, settings, base, tmp_path / "out", longest, limits, family=family)

    model_args, data_args, *_ = get_train_args(resolved)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    encoder = SupervisedDatasetProcessor(template=template, data_args=data_args, **module)
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template, pad_to_multiple_of=8, label_pad_token_id=-100, compute_dtype=torch.float32, **module
    )
    engine_side = AutoProcessor.from_pretrained(base)
    tokenizer = engine_side.tokenizer
    newline = tokenizer.encode("\n")
    for row, length in zip(report.kept, report.lengths, strict=True):
        written = to_row(row, store.path)
        paths = written["images"]
        trained = encoder.preprocess_dataset(
            {
                "_prompt": [written["messages"][:1]],
                "_response": [[{"role": "assistant", "content": row.target}]],
                "_system": [""],
                "_tools": [""],
                "_images": [paths],
                "_videos": [None],
                "_audios": [None],
            }
        )
        features = {key: values[0] for key, values in trained.items()}
        ids, labels = list(features["input_ids"]), list(features["labels"])
        batch = collator([features])

        message = {"role": "user", "content": content_of(row)}
        text = engine_side.apply_chat_template([message], add_generation_prompt=True)
        images = [Image.open(path).convert("RGB") for path in paths]
        asked = engine_side(text=[text], images=images, return_tensors="pt")
        prompt = asked["input_ids"][0].tolist()
        target = tokenizer.encode(row.target, add_special_tokens=False) + tokenizer.encode("<|im_end|>")
        assert ids == prompt + target + newline, row
        assert labels == [-100] * len(prompt) + target + newline
        assert len(ids) == length
        assert batch["input_ids"][0, : len(ids)].tolist() == ids
        assert torch.equal(batch["image_grid_thw"], asked["image_grid_thw"])
        assert torch.equal(batch["pixel_values"], asked["pixel_values"])
