"""What memory of the host an adapter takes to open: the highest resident memory of a process that opens the hf engine.

    python -m benchmarks.adapter_memory

The model is a Qwen2-VL of a few big matrices with random weights in bfloat16, about 2.3 GiB, and the adapter is of rank
64 in every matrix of its language model. Each row of the table is a process of its own, on the CPU. Resident memory
includes pages of the files that are mapped, which the kernel could take back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import fullsize

VISION = {"depth": 2, "num_heads": 2, "embed_dim": 64, "hidden_size": 4096, "mlp_ratio": 4}
PADDED = fullsize.Size(4096, 16384, 5, 32, 8, 1280, tied=True, vision=VISION, text_tokens=1000)
CASES = (("bfloat16", False), ("bfloat16", True), ("float32", False), ("float32", True))
GIB = 2**30


def open_once(model: Path, adapter: Path | None, dtype: str) -> float:
    """Open the engine in this process; GiB of the highest resident memory since it started."""
    import torch

    from selftrain.engine_settings import HFSettings
    from selftrain.engines.hf import HFEngine

    torch.set_num_threads(1)
    with HFEngine(model, adapter, HFSettings.model_validate({"device": "cpu", "dtype": dtype})):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="folder for model and adapter, kept (default: a temporary one)")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "ADAPTER", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        model, adapter, dtype = args.one
        print(json.dumps(open_once(Path(model), Path(adapter) if adapter else None, dtype)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        model, adapter = folder / "model", folder / "adapter"
        if not model.exists():
            fullsize.SIZES["qwen2_vl", "padded"] = PADDED
            fullsize.write_checkpoint("qwen2_vl", "padded", model)
            fullsize.random_adapter(model, adapter)
        base = sum(file.stat().st_size for file in model.glob("*.safetensors")) / GIB
        print(f"base {base:.2f} GiB in bfloat16\n\n| engine's dtype | adapter | GiB at the most | above its weights |")
        print("|---|---|---|---|")
        for dtype, adapted in CASES:
            given = [str(model), str(adapter) if adapted else "", dtype]
            command = [sys.executable, "-m", "benchmarks.adapter_memory", "--one", *given]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peak = float(json.loads(done.stdout.splitlines()[-1]))
            weights = base * (2 if dtype == "float32" else 1)
            print(f"| {dtype} | {'yes' if adapted else 'no'} | {peak:.2f} | {peak - weights:.2f} |", flush=True)


if __name__ == "__main__":
    main()
