#!/usr/bin/env bash
# Tokenizes a corpus on Google Cloud Dataflow.
#
#   launch/dataflow.sh --project PROJECT --region REGION --temp_location gs://... --image IMAGE
#                      [--max_workers N] [--machine_type TYPE] [--dry_run]
#                      -- FLAGS OF audiolm_jax.cache_tokens
#
# --project       project of Google Cloud
# --region        region of the workers
# --temp_location folder in a bucket for temporary files
# --image         image built from launch/Dockerfile, with the same versions of Python and Beam as
#                 the environment that starts the job
# --max_workers   largest number of workers; default 100
# --machine_type  machine type of the workers; default n2-standard-4
# --dry_run       print the command without running it
#
# The script waits until the job has ended. PYTHON selects the interpreter, whose environment needs
# `pip install "apache-beam[gcp]" gcsfs` in addition to requirements.txt.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

project=
region=
temp_location=
image=
max_workers=100
machine_type=n2-standard-4
parse_options "project region temp_location image max_workers machine_type" "$@"
need project region temp_location image machine_type
need_number max_workers
[[ $temp_location == gs://* ]] || fail "--temp_location $temp_location does not begin with gs://"
[[ $project$region$temp_location$image$machine_type != *[[:space:]\'\"\\]* ]] ||
  fail "an option with a space, quotation mark or backslash cannot be passed on to Beam"
need_flags audiolm_jax.cache_tokens

beam=("--project=$project" "--region=$region" "--temp_location=$temp_location"
  "--sdk_container_image=$image" --sdk_location=container
  "--max_num_workers=$max_workers" "--machine_type=$machine_type")
become "$python" -m audiolm_jax.cache_tokens "${flags[@]}" --runner=DataflowRunner \
  "--beam_options=${beam[*]}"
