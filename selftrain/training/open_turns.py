"""LLaMA-Factory with a chat template whose assistant may speak several times in one turn. A script; it stands alone.

`python open_turns.py train train.yaml` takes the place of `llamafactory-cli train train.yaml`. The template is that of
Qwen2-VL, but adds nothing to what the assistant says or to observations. So a row can begin the assistant's turn with
an attempt, put an ignore string after it as an observation, and continue. With `mask_history` only the last part, the
target, is in the loss. Rows end their targets with the end-of-turn mark (data_process/building/sharegpt.py).

The interpreter that runs it needs LLaMA-Factory (0.9.5), not selftrain. Under torchrun every rank runs this file again.
"""

from __future__ import annotations

import sys

TEMPLATE = "qwen2_vl_open_turns"


def register() -> None:
    """Add the template to LLaMA-Factory's table; a second call changes nothing."""
    from dataclasses import replace

    from llamafactory.data.formatter import StringFormatter
    from llamafactory.data.template import TEMPLATES

    bare = StringFormatter(slots=["{{content}}"])
    TEMPLATES.setdefault(TEMPLATE, replace(TEMPLATES["qwen2_vl"], format_assistant=bare, format_observation=bare))


def main() -> None:
    """Train: as the command, or as one of torchrun's ranks, which get no `train`."""
    register()
    if sys.argv[1:2] != ["train"]:
        from llamafactory.train.tuner import run_exp

        run_exp()
        return
    from llamafactory import launcher

    launcher.__file__ = sys.argv[0]  # the file that torchrun starts as each rank
    launcher.launch()


if __name__ == "__main__":
    main()
