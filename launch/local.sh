#!/usr/bin/env bash
# Trains on this machine, in one process with all devices or in several processes that share them.
#
#   launch/local.sh [--processes N] [--port PORT] [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --processes  number of processes; default 1, which uses all devices. With several processes, each
#              process uses one GPU, or all processes share the CPU
# --port       port on which process 0 of several processes listens; default: a free port
# --dry_run    print the commands without running them
#
# With several processes, each line of output starts with the index of its process. On SIGTERM or
# Ctrl-C all processes save a checkpoint and exit with code 143. If a process fails, all processes
# end within seconds, and the exit code is that of a failed process. Relative paths in FLAGS start
# at the repository. PYTHON selects the interpreter.

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
  # JAX reads JAX_LOCAL_DEVICE_IDS, the GPUs that a process may use.
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
  # The other processes cannot continue without the failed process. They have five seconds to log
  # the error and to end.
  if [[ -n $failed_at ]] && ((${#running[@]} && SECONDS > failed_at + 5)); then
    kill -KILL "${running[@]}" 2>/dev/null || true
  fi
  sleep 0.2
done
exit "$status"
