#!/usr/bin/env bash
# Trains on an existing Cloud TPU slice, with one process on each of its VMs.
#
#   launch/tpu_vm.sh --tpu NAME --zone ZONE [--project PROJECT] [--commit COMMIT]
#                    [--setup COMMAND] [--dry_run] -- FLAGS OF audiolm_jax.train
#   launch/tpu_vm.sh --tpu NAME --zone ZONE [--project PROJECT] --stop
#
# --tpu      name of the slice
# --zone     zone of the slice
# --commit   git commit to run; default: the tracked files of the working tree
# --setup    shell command to run on every VM before training, such as one that mounts the bucket
# --stop     make a run save a checkpoint and exit
# --dry_run  print the commands without running them
#
# Copies the code to ~/audiolm_jax on every VM, installs the requirements of training into
# ~/audiolm_jax_venv, and trains. The output appears in this terminal; if the connection is lost,
# the run continues until --stop. Relative paths in FLAGS start at ~/audiolm_jax.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

tpu=
zone=
project=
commit=
setup=
stop=
switches+=" stop"
parse_options "tpu zone project commit setup" "$@"
need tpu zone
[[ -n $stop ]] || need_flags audiolm_jax.train
need_tool gcloud
where=("--zone=$zone" --worker=all)
[[ -z $project ]] || where+=("--project=$project")

# on_every_vm COMMAND: runs a shell command on every VM.
on_every_vm() {
  run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" "--command=$1"
}

if [[ -n $stop ]]; then
  on_every_vm "pkill -TERM -f '[a]udiolm_jax.train'" # the brackets exclude this command itself
  exit
fi

archive=audiolm_jax.tar.gz
if [[ -z $dry_run ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  archive=$scratch/$archive
fi
if [[ -z $commit ]]; then # the working tree as a commit; empty if it equals HEAD
  commit=$(git stash create 2>/dev/null) || fail "git cannot read the working tree; give --commit"
fi
run git archive --format=tar.gz "--output=$archive" "${commit:-HEAD}"
run gcloud compute tpus tpu-vm scp "$archive" "$tpu:audiolm_jax.tar.gz" "${where[@]}"

# uv installs Python, because the Python of the TPU images can be too old.
on_every_vm 'set -e; rm -rf audiolm_jax; mkdir audiolm_jax
tar -xzf audiolm_jax.tar.gz -C audiolm_jax; cd audiolm_jax
python3 -m pip install --user --quiet uv
[ -d ../audiolm_jax_venv ] || python3 -m uv venv --python 3.12 ../audiolm_jax_venv
python3 -m uv pip install --quiet --python ../audiolm_jax_venv -r requirements.txt -e ".[tpu]"'

train=(../audiolm_jax_venv/bin/python -m audiolm_jax.train --multiprocess "${flags[@]}")
on_every_vm "${setup:+$setup && }cd ~/audiolm_jax && exec $(quoted "${train[@]}")"
