#!/usr/bin/env bash
# Trains on the GPUs of one or more SLURM nodes, with one process per GPU.
#
#   launch/slurm.sh [--nodes N] [--gpus_per_node N] [--cpus_per_gpu N] [--time LIMIT]
#                   [--save_seconds N] [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --nodes          default 1
# --gpus_per_node  default 8
# --cpus_per_gpu   default 8
# --time           limit of one job, in the format of sbatch; default 24:00:00
# --save_seconds   time before the limit at which to save and exit; default 300
# --dry_run        print the sbatch and srun commands without running them
#
# Outside a job this script submits itself; in a job (sbatch, salloc) it trains. Partition, account
# and other settings come from the variables of sbatch: SBATCH_PARTITION, SBATCH_ACCOUNT. Before the
# time limit every process receives SIGTERM, saves a checkpoint and exits with code 143, and the job
# is requeued, as after the failure of a node. A job that scancel ends is not requeued. Relative paths
# in FLAGS start at the repository, which all nodes must be able to read. PYTHON selects the
# interpreter.

set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
[[ -f $folder/common.sh ]] || folder=$SLURM_SUBMIT_DIR/launch # sbatch runs a copy of this file
cd "$folder/.."
source launch/common.sh

nodes=1
gpus_per_node=8
cpus_per_gpu=8
time=24:00:00
save_seconds=300
parse_options "nodes gpus_per_node cpus_per_gpu time save_seconds" "$@"
need_number nodes gpus_per_node cpus_per_gpu save_seconds
need_flags audiolm_jax.train

# Without the prefix B:, the signal goes to the processes of srun and not to this script.
submit=(sbatch --job-name=audiolm_jax "--nodes=$nodes" "--ntasks-per-node=$gpus_per_node"
  "--gpus-per-node=$gpus_per_node" "--cpus-per-task=$cpus_per_gpu" "--time=$time"
  "--signal=TERM@$save_seconds" --requeue --open-mode=append
  launch/slurm.sh "--cpus_per_gpu=$cpus_per_gpu" -- "${flags[@]}")
# srun inherits neither the CPUs nor the GPUs per task from the job. JAX selects one of the node's
# GPUs by SLURM_LOCALID.
train=(srun --kill-on-bad-exit=1 --label "--cpus-per-task=$cpus_per_gpu"
  "$python" -m audiolm_jax.train --multiprocess "${flags[@]}")

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  need_tool sbatch
  run "${submit[@]}"
fi
if [[ -n $dry_run ]]; then
  run "${train[@]}"
fi
[[ -n ${SLURM_JOB_ID:-} && -z $dry_run ]] || exit 0

trap : TERM # scancel also signals this script, which must outlive the processes
"${train[@]}" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
  status=0
  wait "$step" || status=$?
done
# The state of a cancelled job is not RUNNING.
if ((status == 143)) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
