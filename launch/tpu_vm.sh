#!/usr/bin/env bash
# Trains on a Cloud TPU slice that exists, one process on each of its VMs.
#
#   launch/tpu_vm.sh --tpu NAME --zone ZONE [--project PROJECT] [--commit COMMIT]
#                    [--setup COMMAND] [--dry_run] -- FLAGS OF audiolm_jax.train
#   launch/tpu_vm.sh --tpu NAME --zone ZONE [--project PROJECT] --stop
#
# --commit   what to run: a git commit; default what git tracks, as it lies here
# --setup    a shell command for every VM before training, such as one that mounts the bucket
# --stop     asks a run to save and leave
# --dry_run  print the commands and leave
#
# Copies the code to ~/audiolm_jax on every VM, makes ~/audiolm_jax_venv with what the training
# needs, and trains. The commands stay attached to this terminal; a run that loses it goes on until
# it is stopped. Paths in FLAGS are relative to ~/audiolm_jax.

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

# on_every_vm COMMAND: a line for the shells there.
on_every_vm() {
  run gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" "--command=$1"
}

if [[ -n $stop ]]; then
  on_every_vm "pkill -TERM -f '[a]udiolm_jax.train'" # the brackets: not this command itself
  exit
fi

archive=audiolm_jax.tar.gz
if [[ -z $dry_run ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  archive=$scratch/$archive
fi
if [[ -z $commit ]]; then # what lies here as a commit of no branch; none if it is as committed
  commit=$(git stash create 2>/dev/null) || fail "git cannot tell what lies here; give --commit"
fi
run git archive --format=tar.gz "--output=$archive" "${commit:-HEAD}"
run gcloud compute tpus tpu-vm scp "$archive" "$tpu:audiolm_jax.tar.gz" "${where[@]}"

# uv brings a Python, as the TPU images' own may be too old.
on_every_vm 'set -e; rm -rf audiolm_jax; mkdir audiolm_jax
tar -xzf audiolm_jax.tar.gz -C audiolm_jax; cd audiolm_jax
python3 -m pip install --user --quiet uv
[ -d ../audiolm_jax_venv ] || python3 -m uv venv --python 3.12 ../audiolm_jax_venv
python3 -m uv pip install --quiet --python ../audiolm_jax_venv -r requirements.txt -e ".[tpu]"'

train=(../audiolm_jax_venv/bin/python -m audiolm_jax.train --multiprocess "${flags[@]}")
on_every_vm "${setup:+$setup && }cd ~/audiolm_jax && exec $(quoted "${train[@]}")"
