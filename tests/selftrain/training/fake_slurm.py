"""srun, sbatch and scontrol for a machine without Slurm: "nodes" are local processes with the variables Slurm sets.

As strict as the real ones where it matters here: an option they do not know is an error, sbatch runs a copy of the
script in another folder, tasks are no children of srun's session, signals to srun reach them.

`SLURM_JOB_NODELIST` names the nodes (sbatch sets it). `FAKE_NOT_SHARED=NODE:PATH` lets a node see another, empty folder
in the place of PATH. `FAKE_SLURM_LOG` is a file that gets a line per call.
"""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path

SRUN = """
    import os, signal, subprocess, sys, time

    FLAGS = {"--overlap", "--exact", "--kill-on-bad-exit", "--label", "--unbuffered"}
    VALUES = {"--nodes", "-N", "--ntasks", "-n", "--ntasks-per-node", "--nodelist", "-w", "--gpus-per-node",
              "--cpus-per-task", "--kill-on-bad-exit", "--export", "--job-name", "--mem", "--gres", "--output"}
    options, words = {}, sys.argv[1:]
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        if equals and name in VALUES:
            options[name] = value
        elif not equals and name in FLAGS:
            options[name] = "1"
        elif not equals and name in VALUES:
            options[name] = words.pop(0)
        else:
            sys.exit(f"srun: unrecognized option '{name}'")
    if not words:
        sys.exit("srun: fatal: No command given to execute.")
    nodes = (options.get("--nodelist") or options.get("-w") or os.environ.get("SLURM_JOB_NODELIST", "node0")).split(",")
    wanted = int(options.get("--nodes") or options.get("-N") or len(nodes))
    if wanted > len(nodes):
        sys.exit(f"srun: error: Only allocated {len(nodes)} nodes asked for {wanted}")
    nodes, each = nodes[:wanted], int(options.get("--ntasks-per-node", 1))
    if log := os.environ.get("FAKE_SLURM_LOG"):
        open(log, "a").write("srun " + " ".join(sys.argv[1:]) + "\\n")
    hidden, _, path = os.environ.get("FAKE_NOT_SHARED", "").partition(":")
    tasks = []
    for number, node in enumerate(nodes):
        for local in range(each):
            command = [w.replace(path, "/nowhere") for w in words] if hidden == node else words
            variables = {"SLURM_NODEID": number, "SLURM_PROCID": len(tasks), "SLURM_LOCALID": local,
                         "SLURM_STEP_NUM_TASKS": each * len(nodes), "SLURM_STEP_NUM_NODES": len(nodes),
                         "SLURM_STEP_ID": 0, "SLURMD_NODENAME": node}
            environment = os.environ | {name: str(value) for name, value in variables.items()}
            tasks.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True))

    def forward(number, frame=None):
        for task in tasks:
            if task.poll() is None:
                os.killpg(task.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    told = False
    while any(task.poll() is None for task in tasks):
        time.sleep(0.02)
        if not told and "--kill-on-bad-exit" in options and any(task.poll() for task in tasks):
            told = True
            forward(signal.SIGTERM)
    sys.exit(max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks))
"""

SBATCH = """
    import os, re, shutil, subprocess, sys, tempfile
    from pathlib import Path

    KNOWN = {"--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--output",
             "--signal", "--open-mode", "--exclusive", "--partition", "--account", "--mem", "--requeue"}
    words, options = sys.argv[1:], {}
    given = []
    while words and words[0].startswith("-"):
        given.append(words.pop(0))
    script = Path(words.pop(0))
    given = re.findall(r"^#SBATCH +(\\S+)", script.read_text(), re.M) + given
    for option in given:
        name, _, value = option.partition("=")
        if name not in KNOWN:
            sys.exit(f"sbatch: unrecognized option '{name}'")
        options[name] = value
    nodes = int(options.get("--nodes", 1))
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NNODES": str(nodes),
                 # Names that this machine can reach itself by.
                 "SLURM_JOB_NODELIST": ",".join(f"127.0.0.{k + 1}" for k in range(nodes)),
                 "SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_NODEID": "0", "SLURM_PROCID": "0",
                 "SLURMD_NODENAME": "127.0.0.1"}
    if "--gpus-per-node" in options:
        variables["SLURM_GPUS_ON_NODE"] = variables["SLURM_GPUS_PER_NODE"] = options["--gpus-per-node"]
    if "--cpus-per-task" in options:
        variables["SLURM_CPUS_PER_TASK"] = options["--cpus-per-task"]
    with tempfile.TemporaryDirectory() as spool:
        copy = shutil.copy(script, Path(spool) / "slurm_script")
        sys.exit(subprocess.run(["bash", copy, *words], env=os.environ | variables).returncode)
"""

SCONTROL = """
    import sys

    assert sys.argv[1:3] == ["show", "hostnames"], sys.argv
    print("\\n".join(sys.argv[3].split(",")))
"""


def write_program(folder: Path, name: str, text: str) -> Path:
    """A Python program of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\n" + textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def install(folder: Path, monkeypatch) -> Path:
    """Put srun, sbatch and scontrol first on PATH; returns their folder."""
    for name, text in {"srun": SRUN, "sbatch": SBATCH, "scontrol": SCONTROL}.items():
        write_program(folder, name, text)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder
