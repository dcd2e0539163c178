#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster that has JobSet and the Cloud Storage FUSE driver.
#
#   launch/gke.sh --name NAME --image IMAGE --accelerator TYPE --topology AxB[xC] --bucket BUCKET
#                 [--chips_per_host N] [--slices N] [--max_restarts N] [--service_account NAME]
#                 [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --name             of the JobSet; `kubectl delete jobset NAME` asks it to save and ends it
# --image            made from launch/Dockerfile, with EXTRA=tpu
# --accelerator      as the node pool's label says it, such as tpu-v5-lite-podslice
# --topology         of one slice, in chips, such as 4x4
# --bucket           is mounted at /bucket; MODEL_DIR belongs there
# --chips_per_host   default 4
# --slices           default 1
# --max_restarts     how often all pods start again after one has failed; default 20
# --service_account  of Kubernetes, allowed to write the bucket; default default
# --dry_run          print the manifest and leave
#
# Fills in launch/gke_jobset.yaml and applies it in kubectl's current cluster and namespace.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

name=
image=
accelerator=
topology=
bucket=
chips_per_host=4
slices=1
max_restarts=20
service_account=default
parse_options "name image accelerator topology bucket chips_per_host slices max_restarts \
  service_account" "$@"
need name image accelerator topology bucket service_account
need_number chips_per_host slices max_restarts
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology $topology is not like 4x4"
chips=$((${topology//x/*}))
((chips % chips_per_host == 0)) ||
  fail "a slice of $topology has $chips chips, which are no hosts of $chips_per_host"
for option in name image accelerator bucket service_account; do
  [[ ${!option} =~ ^[[:alnum:]][[:alnum:]._/:@-]*$ ]] || fail "--$option ${!option} is no name"
done
need_flags audiolm_jax.train
need_tool kubectl

# yaml_list WORDS...: one line that YAML reads as these strings, and Kubernetes, for which $$ is $.
yaml_list() {
  local word separator='['
  for word in "$@"; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    word=${word//$'\t'/\\t}
    word=${word//\$/\$\$}
    printf '%s"%s"' "$separator" "$word"
    separator=', '
  done
  printf ']'
}

shopt -u patsub_replacement 2>/dev/null || true # in bash 5.2, & would stand for what is replaced
manifest=$(<launch/gke_jobset.yaml)
# fill_in NAME VALUE
fill_in() {
  manifest=${manifest//\$\{$1\}/$2}
}
fill_in NAME "$name"
fill_in IMAGE "$image"
fill_in ACCELERATOR "$accelerator"
fill_in TOPOLOGY "$topology"
fill_in HOSTS "$((chips / chips_per_host))"
fill_in CHIPS "$chips_per_host"
fill_in SLICES "$slices"
fill_in MAX_RESTARTS "$max_restarts"
fill_in SERVICE_ACCOUNT "$service_account"
fill_in BUCKET "$bucket"
fill_in FLAGS "$(yaml_list "${flags[@]}")" # last, as they may hold anything

if [[ -n $dry_run ]]; then
  printf '%s\n' "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
