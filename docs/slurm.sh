#!/bin/bash
# One run of 64 processes, each with a device of its own; no process waits for another.
#
#   sbatch docs/slurm.sh photographs/ efficientnet-lite0-imagenet run.zarr
#
# A task that was killed or ran out of time is submitted again with its own number
# (`sbatch --array=17 ...`), and resumes; what the others have finished stays.
#SBATCH --job-name=segcam
#SBATCH --array=1-64
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

images=$1 weights=$2 out=$3
segcam sweep "$images" --weights "$weights" --tap all --method grad_cam layer_cam \
    --out "$out" --share "$SLURM_ARRAY_TASK_ID/${SHARES:-$SLURM_ARRAY_TASK_COUNT}"
