#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster that has JobSet and the Cloud Storage FUSE driver.
#
#   launch/gke.sh --name NAME --image IMAGE --accelerator TYPE --topology AxB[xC] --bucket BUCKET
#                 [--chips_per_host N] [--slices N] [--max_restarts N] [--service_account NAME]
#                 [--dry_run] -- FLAGS OF audiolm_jax.train
#
# --name             name of the JobSet; `kubectl delete jobset NAME` makes the run save a
#                    checkpoint and exit
# --image            image built from launch/Dockerfile with EXTRA=tpu
# --accelerator      TPU type in the label of the node pool, such as tpu-v5-lite-podslice
# --topology         topology of one slice in chips, such as 4x4
# --bucket           bucket that is mounted at /bucket; MODEL_DIR must be inside /bucket
# --chips_per_host   number of chips per host; default 4
# --slices           number of slices; default 1
# --max_restarts     how often all pods are restarted after failures; default 20
# --service_account  Kubernetes service account with write access to the bucket; default "default"
# --dry_run          print the manifest without applying it
#
# Fills in launch/gke_jobset.yaml and applies it to kubectl's current cluster and namespace.

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
  fail "a slice of $topology has $chips chips, not a multiple of $chips_per_host"
for option in name image accelerator bucket service_account; do
  [[ ${!option} =~ ^[[:alnum:]][[:alnum:]._/:@-]*$ ]] || fail "--$option ${!option} is not a name"
done
need_flags audiolm_jax.train
need_tool kubectl

# yaml_list WORDS...: prints one line that YAML parses as a list of these words. $ is written as $$,
# which Kubernetes converts to $.
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

shopt -u patsub_replacement 2>/dev/null || true # otherwise bash 5.2 replaces & by the match
manifest=$(<launch/gke_jobset.yaml)
# fill_in NAME VALUE: replaces ${NAME} in the manifest by the value.
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
fill_in FLAGS "$(yaml_list "${flags[@]}")" # last, because they can contain any text

if [[ -n $dry_run ]]; then
  printf '%s\n' "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
