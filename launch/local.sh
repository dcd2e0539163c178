#!/usr/bin/env bash
# Trains on this machine: one process with all its devices, or several that share them.
#
#   launch/local.sh [--processes N] [--port PORT] [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --processes  default 1, which uses every device; with N, each uses one GPU or shares the CPU
# --port       where process 0 listens, when there are several; default a free one
# --dry_run    print the commands and leave
#
# Of several, each line says which process it is from. SIGTERM and Ctrl-C reach all of them, which
# save and leave with exit code 143. When one fails all end within seconds, with its exit code or
# another's. Paths in FLAGS are relative to the repository. PYTHON names the interpreter.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

processes=1
port=
parse_options "processes port" "$@"
need_number processes
need_flags audiolm_jax.train
train=("$python" -m audiolm_jax.train)

if ((processes == 1)); then
  become "${train[@]}" "${flags[@]}"
  exit
fi

if [[ -z $port ]]; then
  port=$("$python" -c 'import socket
with socket.socket() as found:
  found.bind(("localhost", 0))
  print(found.getsockname()[1])')
fi
need_number port
running=()
for ((i = 0; i < processes; i++)); do
  # JAX_LOCAL_DEVICE_IDS is JAX's own name for the GPUs that a process may use.
  command=(env "JAX_LOCAL_DEVICE_IDS=$i" "${train[@]}" --multiprocess
    "--coordinator_address=localhost:$port" "--process_count=$processes" "--process_index=$i"
    "${flags[@]}")
  if [[ -n $dry_run ]]; then
    run "${command[@]}"
  else
    "${command[@]}" > >(trap '' INT; exec sed -u "s/^/[$i] /") 2>&1 &
    running+=($!)
  fi
done
[[ -z $dry_run ]] || exit 0

trap 'kill -TERM "${running[@]}" 2>/dev/null || true' TERM INT
status=0
failed_at=
while ((${#running[@]})); do
  still=()
  for process in "${running[@]}"; do
    if kill -0 "$process" 2>/dev/null; then
      still+=("$process")
      continue
    fi
    code=0
    wait "$process" || code=$?
    if ((code && !status)); then
      status=$code
      failed_at=$SECONDS
    fi
  done
  running=(${still[@]+"${still[@]}"})
  # Without the one that failed the others cannot go on; these seconds are for their last words.
  if [[ -n $failed_at ]] && ((${#running[@]} && SECONDS > failed_at + 5)); then
    kill -KILL "${running[@]}" 2>/dev/null || true
  fi
  sleep 0.2
done
exit "$status"
