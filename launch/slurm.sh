#!/usr/bin/env bash
# Trains on the GPUs of one or more SLURM nodes, with one process per GPU.
#
#   launch/slurm.sh [--nodes N] [--gpus_per_node N] [--cpus_per_gpu N] [--time LIMIT]
#                   [--save_seconds N] [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --nodes          number of nodes; default 1
# --gpus_per_node  number of GPUs per node; default 8
# --cpus_per_gpu   number of CPU cores per GPU; default 8
# --time           limit of one job, in the format of sbatch; default 24:00:00
# --save_seconds   seconds before the limit at which to save a checkpoint and exit; default 300
# --dry_run        print the sbatch and srun commands without running them
#
# Outside a job this script submits itself; in a job (sbatch, salloc) it trains. The variables of
# sbatch, such as SBATCH_PARTITION and SBATCH_ACCOUNT, set the partition, the account and other
# options. Before the time limit every process receives SIGTERM, saves a checkpoint and exits with
# code 143. The job is then requeued, as it is after the failure of a node. A job that scancel ends
# is not requeued. Relative paths in FLAGS start at the repository, which all nodes must be able to
# read. PYTHON selects the interpreter.

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

# Without the prefix B: in --signal, the processes of srun receive the signal, not this script.
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

trap : TERM # scancel also signals this script, which must end after the processes
"${train[@]}" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal interrupted `wait`; the step still runs
  status=0
  wait "$step" || status=$?
done
# The state of a cancelled job is not RUNNING.
if ((status == 143)) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
