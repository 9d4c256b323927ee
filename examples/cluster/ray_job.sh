#!/bin/bash
# One run as a job on an existing Ray cluster (KubeRay, `ray up`, your own). Its actors sample, and Ray starts the training
# on NODES of its machines. Start it from the repository:
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265
#   NODES=2 examples/cluster/ray_job.sh --config configs/geoqa_qwen2vl_7b.yaml \
#     --set model.path=/models/Qwen2-VL-7B-Instruct
#
# Arguments after the script's name go to run.py and override what is set below. The repository, its outputs/ and the
# model must have the same paths on all machines, on a shared file system. The same command resumes a run that was
# interrupted.
set -euo pipefail
: "${RAY_API_SERVER_ADDRESS:?set it to the address of the dashboard, e.g. http://HEAD:8265}"

REPOSITORY=${REPOSITORY:-$PWD}
PYTHON=${PYTHON:-$REPOSITORY/.venv/bin/python}
RAY=${RAY:-$REPOSITORY/.venv/bin/ray}
NODES=${NODES:-1}    # machines that train together
GPUS=${GPUS:-8}      # of each of them

COMMAND=("$PYTHON" run.py
  --set engine.kind=ray --set engine.engine.kind=vllm --set engine.address=auto
  --set training.nodes="$NODES" --set training.processes="$GPUS" --set training.save_steps=50
  --set "training.launcher=[\"$PYTHON\", \"$REPOSITORY/examples/cluster/ray_launch.py\", --nodes=$NODES, --gpus=$GPUS]"
  "$@")

# No --working-dir: Ray would run a copy of the repository, and its outputs would be lost.
exec "$RAY" job submit -- bash -c "cd $(printf '%q' "$REPOSITORY") && exec $(printf '%q ' "${COMMAND[@]}")"
