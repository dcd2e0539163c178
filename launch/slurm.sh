#!/usr/bin/env bash
# Trains on the GPUs of one or more SLURM nodes, one process for each GPU.
#
#   launch/slurm.sh [--nodes N] [--gpus_per_node N] [--cpus_per_gpu N] [--time LIMIT]
#                   [--save_seconds N] [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --nodes          default 1
# --gpus_per_node  default 8
# --cpus_per_gpu   default 8
# --time           of one turn in the queue, as sbatch reads it; default 24:00:00
# --save_seconds   how long before the limit to save and leave; default 300
# --dry_run        print the sbatch and the srun command and leave
#
# Outside a job this submits itself; in a job (sbatch, salloc) it trains. Partition, account and
# what else a cluster asks for come from sbatch's own variables: SBATCH_PARTITION, SBATCH_ACCOUNT.
# Before the time limit every process is sent SIGTERM, saves and leaves with 143, and the job goes
# back into the queue; so it does when a node fails. A job that scancel ends stays ended. Paths in
# FLAGS are relative to the repository, which all nodes must see. PYTHON names the interpreter.

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

# Without B: before it, the signal goes to the processes of srun and not to this script.
submit=(sbatch --job-name=audiolm_jax "--nodes=$nodes" "--ntasks-per-node=$gpus_per_node"
  "--gpus-per-node=$gpus_per_node" "--cpus-per-task=$cpus_per_gpu" "--time=$time"
  "--signal=TERM@$save_seconds" --requeue --open-mode=append
  launch/slurm.sh "--cpus_per_gpu=$cpus_per_gpu" -- "${flags[@]}")
# srun takes neither the CPUs per task nor the GPUs for each of them from the job, and JAX picks one
# of the node's GPUs by SLURM_LOCALID.
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

trap : TERM # scancel sends it to this script too, which must outlive the processes
"${train[@]}" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # the wait ended for the signal, not for the step
  status=0
  wait "$step" || status=$?
done
# A job that was cancelled is no longer RUNNING.
if ((status == 143)) && [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
