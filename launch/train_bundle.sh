#!/usr/bin/env bash
# The complete recipe: trains a bundle on a folder of audio.
#
#   launch/train_bundle.sh AUDIO_DIR BUNDLE_DIR [--preset smoke|tiny|piano_tiny|small|base]
#                          [--canonical_speaker NAME] [--codec frame_rate|soundstream]
#                          [--acoustic parallel|cascade] [--name NAME] [--work_dir DIR]
#                          [--semantic_audio AUDIO_DIR] [--tokenizers BUNDLE]
#                          [--override STEP:FLAG]... [--acoustic_only] [--text] [--pairs]
#                          [--dry_run]
#
# AUDIO_DIR   folder of audio files of any common format and rate, or a .jsonl manifest
# BUNDLE_DIR  folder of the new bundle
# --preset    sizes of the models and length of training:
#             tiny (default): designed for two CPU cores in three hours or one GPU in 20 minutes;
#             piano_tiny: like tiny, with semantic tokens that preserve pitch;
#             small: designed for two CPU cores in a day, with the frame-rate codec, and with one
#             parallel stage in place of the coarse and fine stages;
#             base: the sizes of the paper;
#             smoke: tiny for a few minutes, which tests all steps but learns very little
# --canonical_speaker   with small: the speaker in AUDIO_DIR, a manifest with texts, who reads the
#             texts of all other speakers. The semantic tokens are then units from three rounds of
#             training with this speaker's sounds and one round with the characters of the texts, in
#             place of clusters of w2v-BERT features
# --codec     with small: frame_rate (default), or soundstream, the codec of tiny
# --acoustic  with small: parallel (default), or cascade, which trains a coarse and a fine stage in
#             place of the parallel stage, with about as many parameters in total
# --name      name of the bundle; default: the last part of BUNDLE_DIR
# --work_dir  folder for runs, tokens and logs; default BUNDLE_DIR.work
# --semantic_audio   a larger folder or manifest of audio for the semantic stage alone; default
#             AUDIO_DIR. This stage needs much speech, but neither clear sound nor many voices
# --tokenizers   folder of a bundle of tokenizers, such as a bundle that `convert` writes; only the
#             stages are then trained
# --override  a flag for one step, such as codec:--gin.TRAIN_STEPS=20000; can be repeated
# --acoustic_only   the ablation of the paper: a coarse stage without semantic tokens, and no
#             semantic stage. With the --work_dir of the complete system, only this coarse stage is
#             trained
# --text      also train a text stage, for text to speech. AUDIO_DIR must be LJSpeech, LibriSpeech
#             or a manifest with the field text
# --pairs     also train a speech stage, for speech to speech. AUDIO_DIR must be a manifest in which
#             clips have the field source_path
# --dry_run   print the commands without running them
#
# Steps: codec semantic kmeans tokenizers tokens semantic_stage coarse_stage fine_stage bundle.
# Options change the steps:
#   small                parallel_stage and parallel_stage_long in place of coarse_stage and
#                        fine_stage
#   --canonical_speaker  labels units labels_2 units_2 labels_3 units_3 kmeans_3 tokenizers_3
#                        copies_4 labels_4 units_4 in place of semantic
#   --semantic_audio     semantic_tokens before semantic_stage
#   --acoustic_only      acoustic_only in place of semantic_stage and coarse_stage;
#                        acoustic_only_bundle in place of bundle
#   --text               text_stage, and text_bundle in place of bundle
#   --pairs              speech_stage, and pairs_bundle in place of bundle; with --text too,
#                        text_pairs_bundle
# With the --work_dir of a complete system, --text and --pairs add only their steps.
#
# Rerun the same command to resume a stopped run: finished steps are skipped, training resumes from
# the last checkpoint, and tokenization resumes after the last shard. To repeat a step, remove its
# marker WORK_DIR/done/STEP and the markers of the following steps. PYTHON selects the interpreter.

set -euo pipefail

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

fail() {
  echo "error: $*" >&2
  exit 2
}

preset=tiny
name=
work_dir=
dry_run=
acoustic_only=
text=
pairs=
canonical_speaker=
acoustic=
codec=
tokenizers=
semantic_audio=
overrides=()
positional=()
while (($#)); do
  case $1 in
    --preset | --canonical_speaker | --acoustic | --codec | --name | --work_dir | --semantic_audio | --tokenizers | --override)
      (($# > 1)) || fail "$1 needs a value"
      case $1 in
        --preset) preset=$2 ;;
        --canonical_speaker) canonical_speaker=$2 ;;
        --acoustic) acoustic=$2 ;;
        --codec) codec=$2 ;;
        --name) name=$2 ;;
        --work_dir) work_dir=$2 ;;
        --semantic_audio) semantic_audio=$2 ;;
        --tokenizers) tokenizers=$2 ;;
        --override) overrides+=("$2") ;;
      esac
      shift 2
      ;;
    --preset=* | --canonical_speaker=* | --acoustic=* | --codec=* | --name=* | --work_dir=* | --semantic_audio=* | --tokenizers=* | --override=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      ;;
    --dry_run)
      dry_run=yes
      shift
      ;;
    --acoustic_only)
      acoustic_only=yes
      shift
      ;;
    --text)
      text=yes
      shift
      ;;
    --pairs)
      pairs=yes
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "unknown option $1; see --help" ;;
    *)
      positional+=("$1")
      shift
      ;;
  esac
done
((${#positional[@]} == 2)) || fail "give AUDIO_DIR and BUNDLE_DIR; see --help"

text_stage_band="held-out loss below the semantic stage's"
speech_stage_band=$text_stage_band
acoustic_only_band="held-out loss above the coarse stage's, if semantic tokens are informative"
acoustics=cascade
codecs=soundstream
case $preset in
  smoke | tiny | piano_tiny)
    size=tiny
    semantic_config=semantic_encoder_${preset/smoke/tiny}
    storage=int8
    num_clusters=64
    layer=5
    codec_band="held-out loss 0.6 to 0.95, every perplexity above 300"
    semantic_band="contrastive accuracy 0.1 to 0.6, codebook perplexity above 25"
    kmeans_band="perplexity above 70 % of the clusters, none dead"
    semantic_stage_band="held-out loss 2.2 to 3.0 nats per token"
    coarse_stage_band="held-out loss 4.2 to 5.3 nats per token"
    fine_stage_band="held-out loss 5.4 to 6.2 nats per token"
    ;;
  small)
    size=small
    acoustics="parallel cascade"
    codecs="frame_rate soundstream"
    semantic_config=semantic_encoder_tiny
    storage=int8
    num_clusters=128
    layer=5
    codec_band="held-out loss below 0.55, every perplexity above 400"
    semantic_band="contrastive accuracy 0.1 to 0.6, codebook perplexity above 25"
    units_band="held-out accuracy above 0.5"
    refined_units_band="held-out accuracy above 0.55, loss of the characters below 1.5"
    kmeans_band="perplexity above 70 % of the clusters, none dead"
    semantic_stage_band="held-out loss well below a bigram table's"
    parallel_stage_band="held-out loss of level 1 below 5 nats per code"
    coarse_stage_band=$semantic_stage_band
    fine_stage_band=$semantic_stage_band
    ;;
  base)
    size=base
    semantic_config=semantic_encoder_xl
    storage=float16
    num_clusters=1024
    layer=19
    codec_band="every perplexity above 600"
    semantic_band="contrastive accuracy above 0.5, codebook perplexity above 100"
    kmeans_band="perplexity above 70 % of the clusters, none dead"
    semantic_stage_band="held-out loss well below a bigram table's"
    coarse_stage_band=$semantic_stage_band
    fine_stage_band=$semantic_stage_band
    ;;
  *) fail "--preset $preset is not one of smoke, tiny, piano_tiny, small, base" ;;
esac

acoustic=${acoustic:-${acoustics%% *}}
[[ " $acoustics " == *" $acoustic "* ]] ||
  fail "--acoustic $acoustic is not one of ${acoustics// /, }, which --preset $preset has"
[[ -z $codec || -z $tokenizers ]] || fail "--codec and --tokenizers exclude each other"
codec=${codec:-${codecs%% *}}
[[ " $codecs " == *" $codec "* ]] ||
  fail "--codec $codec is not one of ${codecs// /, }, which --preset $preset has"
codec_config=codec_$size
latent_settings=()
if [[ $size/$codec == small/soundstream ]]; then
  codec_config=codec_tiny
  latent_settings=(--gin.LATENT_DIM=128)
  codec_band="held-out loss 0.6 to 0.95, every perplexity above 300"
fi
[[ $size != small || -z $acoustic_only ]] ||
  fail "--acoustic_only needs a preset with a coarse stage, not $preset"
[[ -z $text || -z $acoustic_only ]] ||
  fail "--text needs stages that read semantic tokens, so not --acoustic_only"
[[ -z $pairs || -z $acoustic_only ]] ||
  fail "--pairs needs stages that read semantic tokens, so not --acoustic_only"
[[ -z $canonical_speaker || ($preset == small && -z $tokenizers) ]] ||
  fail "--canonical_speaker is for --preset small without --tokenizers"

# smoke is tiny with fewer steps; the overrides of the command line follow and take precedence.
if [[ $preset == smoke ]]; then
  brief=(codec:--gin.TRAIN_STEPS=100 codec:--gin.QUANTIZER_START_STEP=25
    codec:--gin.CODES_FIXED_STEP=None
    codec:--gin.generator/optimizers.OptimizerConfig.warmup_steps=20)
  for step in codec semantic semantic_stage coarse_stage acoustic_only fine_stage text_stage \
    speech_stage; do
    brief+=("$step:--gin.LOG_PERIOD=20" "$step:--gin.EVAL_PERIOD=50" "$step:--gin.EVAL_STEPS=2"
      "$step:--gin.CHECKPOINT_PERIOD=50")
    [[ $step == codec ]] || brief+=("$step:--gin.TRAIN_STEPS=50" "$step:--gin.WARMUP_STEPS=10")
    printf -v "${step}_band" "values far from those of tiny, because there are few steps"
  done
  overrides=("${brief[@]}" ${overrides[@]+"${overrides[@]}"})
fi

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
[[ $python != */* ]] || python=$(realpath -ms "$python") # steps run in the folder of the repository
[[ -n $dry_run ]] || command -v "$python" >/dev/null ||
  fail "PYTHON=$python cannot be run; give the python of an environment with requirements.txt"
[[ -e ${positional[0]} ]] || fail "AUDIO_DIR ${positional[0]} does not exist"
audio=$(realpath "${positional[0]}")
bundle=$(realpath -m "${positional[1]}")
work=$(realpath -m "${work_dir:-$bundle.work}")
name=${name:-$(basename "$bundle")}
[[ ! -d $tokenizers ]] || tokenizers=$(realpath "$tokenizers")
[[ $audio$work != *\'* ]] || fail "paths must not contain quotation marks: $audio $work"
if [[ -f $audio ]]; then
  corpus=(--manifest="$audio")
else
  corpus=(--audio_dir="$audio")
fi
[[ -z $semantic_audio || -e $semantic_audio ]] || fail "--semantic_audio $semantic_audio does not exist"
[[ -z $semantic_audio || -z $acoustic_only ]] || fail "--acoustic_only has no semantic stage for --semantic_audio"
[[ -z $semantic_audio ]] || semantic_audio=$(realpath "$semantic_audio")
if [[ -f $semantic_audio ]]; then
  semantic_corpus=(--manifest="$semantic_audio")
else
  semantic_corpus=(--audio_dir="$semantic_audio")
fi
[[ -z $canonical_speaker || -f $audio ]] ||
  fail "--canonical_speaker needs a .jsonl manifest with texts as AUDIO_DIR, not the folder $audio"
[[ -z $pairs || -f $audio ]] ||
  fail "--pairs needs a .jsonl manifest with source_path as AUDIO_DIR, not the folder $audio"
step_names=(codec semantic labels units labels_2 units_2 labels_3 units_3 kmeans_3 tokenizers_3
  copies_4 labels_4 units_4 kmeans tokenizers tokens semantic_tokens semantic_stage coarse_stage
  acoustic_only fine_stage parallel_stage parallel_stage_long text_stage speech_stage bundle
  acoustic_only_bundle text_bundle pairs_bundle text_pairs_bundle)
for override in ${overrides[@]+"${overrides[@]}"}; do
  [[ " ${step_names[*]} " == *" ${override%%:*} "* && $override == *:-* ]] ||
    fail "--override $override is not STEP:--FLAG with STEP one of ${step_names[*]}"
done

if [[ -z $dry_run ]]; then
  mkdir -p "$work/done" "$work/log" 2>/dev/null || fail "cannot create the folder $work"
  settings="$audio $preset${canonical_speaker:+ $canonical_speaker}${tokenizers:+ $tokenizers}"
  [[ $codec == "${codecs%% *}" ]] || settings+=" $codec"
  [[ $acoustic == "${acoustics%% *}" ]] || settings+=" $acoustic"
  [[ -z $semantic_audio ]] || settings+=" $semantic_audio"
  if [[ -f $work/settings && $(<"$work/settings") != "$settings" ]]; then
    fail "$work was started with '$(<"$work/settings")', not '$settings'; give another --work_dir"
  fi
  echo "$settings" >"$work/settings"
fi
export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
cd "$repo"

# run_logged FILE COMMAND...: runs a command; prints its output and appends it to the file. Signals
# are forwarded as SIGTERM, so that a training run saves a checkpoint.
run_logged() {
  local log=$1 status=0 shown child
  shift
  exec 3> >(tee -ia "$log")
  shown=$!
  "$@" >&3 2>&1 &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal interrupted `wait`; the child still runs
    status=0
    wait "$child" || status=$?
  done
  trap - TERM INT
  exec 3>&-
  wait "$shown" 2>/dev/null || true
  return "$status"
}

# step NAME WHAT EXPECTED COMMAND...: runs the command of a step unless its marker exists.
step() {
  local step=$1 what=$2 expected=$3 start=$SECONDS status=0 fix='' override
  shift 3
  local command=("$@")
  for override in ${overrides[@]+"${overrides[@]}"}; do
    [[ ${override%%:*} != "$step" ]] || command+=("${override#*:}")
  done
  if [[ -n $dry_run ]]; then
    printf '# %s: %s (expect %s)\n' "$step" "$what" "$expected"
    printf '%q ' "${command[@]}"
    printf '\n'
    return
  fi
  if [[ -f $work/done/$step ]]; then
    echo "== $step: already done, $(<"$work/done/$step")"
    return
  fi
  echo "== $step: $what"
  run_logged "$work/log/$step.log" "${command[@]}" || status=$?
  if ((status)); then
    ((status > 128)) || fix=" after fixing the error"
    echo "== $step: stopped (exit $status) after $((SECONDS - start)) s; rerun the same command to resume$fix" >&2
    exit "$status"
  fi
  echo "   took $((SECONDS - start)) s; expect $expected"
  echo "in $((SECONDS - start)) s" >"$work/done/$step"
}

train() {
  local step=$1 what=$2 expected=$3 config=$4
  shift 4
  step "$step" "$what" "$expected" "$python" -m audiolm_jax.train \
    --gin_file="gin_configs/$config.gin" "$@" --gin.MODEL_DIR="'$work/$step'"
}

# units ROUND STEPS RATE: labels the frames and trains a unit encoder at a learning rate. From the
# second round on, the encoder of the previous round computes the features for the labels, and its
# training continues. Sets $encoder to the folder of the encoder.
units() {
  local suffix=${1/#1/} previous=() start=()
  suffix=${suffix:+_$suffix}
  if [[ $1 != 1 ]]; then
    previous=(--encoder_dir="$encoder")
    start=(--gin.INITIAL_RUN="'$encoder'")
  fi
  step "labels$suffix" "labels the frames by the canonical voice" "half of the frames in most clips" \
    "$python" launch/make_unit_labels.py --audio_dir="$audio" \
    --canonical_speaker="$canonical_speaker" ${previous[@]+"${previous[@]}"} --output="$work/labels$suffix.npz"
  train "units$suffix" "trains a unit encoder" "$units_band" "units_$size" \
    --gin_file=gin_configs/runs/labelled_frames_in_memory.gin --gin.AUDIO_DIR="'$audio'" \
    --gin.FRAME_LABELS="'$work/labels$suffix.npz'" ${start[@]+"${start[@]}"} \
    --gin.TRAIN_STEPS="$2" --gin.LEARNING_RATE="$3"
  encoder=$work/units$suffix
}

# make_tokenizers [SUFFIX]: clusters the features of the encoder in $encoder, and exports codec and
# semantic tokenizer to the bundle tokenizers$SUFFIX.
make_tokenizers() {
  step "kmeans${1-}" "clusters its features into $num_clusters semantic tokens" "$kmeans_band" \
    "$python" -m audiolm_jax.fit_kmeans --encoder_dir="$encoder" "${corpus[@]}" \
    ${layer_of_encoder[@]+"${layer_of_encoder[@]}"} --num_clusters="$num_clusters" \
    --output="$work/kmeans${1-}"
  step "tokenizers${1-}" "exports codec and semantic tokenizer as a bundle" \
    "a line with its parts and its size" \
    "$python" -m audiolm_jax.export_bundle --codec_dir="$work/codec" --kmeans="$work/kmeans${1-}" \
    --name="$name" --output="$work/tokenizers${1-}" --storage="$storage"
}

# refine_units SUFFIX BUNDLE: trains the unit encoder of a bundle on many clusters of its own features
# and on the characters of the texts, with recordings and with copies that the codec of the bundle
# decoded. Sets $encoder to the folder of the encoder.
refine_units() {
  local copies=$work/copies$1
  step "copies$1" "decodes copies of half of the training clips" "copies of half of the training clips" \
    "$python" launch/make_decoded_copies.py --bundle="$2" --manifest="$audio" --output_dir="$copies"
  step "labels$1" "labels the frames by clusters of their features" "a perplexity above 700" \
    "$python" launch/make_unit_labels.py --audio_dir="$copies/manifest.jsonl" --bundle="$2" \
    --labels_of_source --num_labels=1024 --output="$work/labels$1.npz"
  train "units$1" "trains the unit encoder on sounds and characters" "$refined_units_band" \
    "refined_units_$size" --gin_file=gin_configs/runs/labelled_frames_in_memory.gin \
    --gin.AUDIO_DIR="'$copies/manifest.jsonl'" --gin.FRAME_LABELS="'$work/labels$1.npz'" \
    --gin.INITIAL_BUNDLE="'$2'" --gin.NUM_UNITS="$num_clusters"
  encoder=$work/units$1
}

if [[ -z $tokenizers ]]; then
  train codec "trains the codec: waveform to acoustic codes and back" "$codec_band" \
    "$codec_config" --gin_file=gin_configs/runs/audio_in_memory.gin --gin.AUDIO_DIR="'$audio'"
  if [[ -n $canonical_speaker ]]; then
    units 1 1400 1.5e-3
    units 2 1400 1.2e-3
    units 3 900 1.0e-3
    num_clusters=512
    layer_of_encoder=()
    make_tokenizers _3
    refine_units _4 "$work/tokenizers_3"
  else
    train semantic "trains the semantic encoder" "$semantic_band" \
      "$semantic_config" --gin_file=gin_configs/runs/audio_in_memory.gin --gin.AUDIO_DIR="'$audio'"
    encoder=$work/semantic
    layer_of_encoder=(--layer="$layer")
  fi
  make_tokenizers
  tokenizers=$work/tokenizers
  parallel_settings=(${latent_settings[@]+"${latent_settings[@]}"})
  has_fine_levels=yes
else
  "$python" -m audiolm_jax.bundles info "$tokenizers" >/dev/null
  levels=$("$python" -c 'import sys
from audiolm_jax.bundles import load_bundle
bundle = load_bundle(sys.argv[1])
print(0 if bundle.stages else bundle.codec.spec.num_quantizers)' "$tokenizers")
  ((levels)) || fail "--tokenizers $tokenizers has stages, which new ones cannot be added to;" \
    "give a bundle of its tokenizers only, exported with export_bundle --tokenizers_only"
  # The codebooks of codecs of other projects are not in one common space.
  parallel_settings=(--gin.HEADS="'plain'")
  has_fine_levels=
  ((levels <= 4)) || has_fine_levels=yes # the coarse stage predicts four levels
fi
step tokens "tokenizes the corpus" "no more than 1 % of the clips skipped" \
  "$python" -m audiolm_jax.cache_tokens --bundle="$tokenizers" "${corpus[@]}" \
  --output_dir="$work/tokens"
tokens=(--gin_file=gin_configs/runs/tokens_in_memory.gin --gin.TOKENS_DIR="'$work/tokens'")

bundle_step=bundle
stages=()
if [[ -z $acoustic_only ]]; then
  semantic_tokens=("${tokens[@]}")
  if [[ -n $semantic_audio ]]; then
    step semantic_tokens "tokenizes the corpus of the semantic stage" \
      "no more than 1 % of the clips skipped" "$python" -m audiolm_jax.cache_tokens \
      --bundle="$tokenizers" "${semantic_corpus[@]}" --streams=semantic \
      --output_dir="$work/semantic_tokens"
    semantic_tokens=(--gin_file=gin_configs/runs/tokens_in_memory.gin
      --gin.TOKENS_DIR="'$work/semantic_tokens'" --gin.BUNDLE="'$tokenizers'")
  fi
  train semantic_stage "trains the semantic stage" "$semantic_stage_band" \
    "semantic_stage_$size" "${semantic_tokens[@]}"
  stages=(--stage_dir=semantic="$work/semantic_stage")
fi
if [[ $acoustic == parallel ]]; then
  train parallel_stage "trains the parallel stage" "$parallel_stage_band" \
    "parallel_stage_$size" "${tokens[@]}" --gin.BUNDLE="'$tokenizers'" \
    ${parallel_settings[@]+"${parallel_settings[@]}"}
  train parallel_stage_long "trains the parallel stage in longer crops" \
    "a loss of level 1 below that of parallel_stage" "parallel_stage_long_$size" "${tokens[@]}" \
    --gin.INITIAL_RUN="'$work/parallel_stage'" ${parallel_settings[@]+"${parallel_settings[@]}"}
  stages+=(--stage_dir=parallel="$work/parallel_stage_long")
elif [[ -z $acoustic_only ]]; then
  train coarse_stage "trains the coarse stage" "$coarse_stage_band" \
    "coarse_stage_$size" "${tokens[@]}"
  stages+=(--stage_dir=coarse="$work/coarse_stage")
else
  bundle_step=acoustic_only_bundle
  train acoustic_only "trains a coarse stage without semantic tokens" "$acoustic_only_band" \
    "acoustic_only_$size" "${tokens[@]}"
  stages=(--stage_dir=coarse="$work/acoustic_only")
fi
# There is no fine stage if the coarse stage predicts all levels of the codec.
if [[ $acoustic == cascade && -n $has_fine_levels ]]; then
  train fine_stage "trains the fine stage" "$fine_stage_band" \
    "fine_stage_$size" "${tokens[@]}"
  stages+=(--stage_dir=fine="$work/fine_stage")
fi

# conditioned NAME EXPECTED: trains a stage that reads a source, and adds the stage to the bundle.
conditioned() {
  train "${1}_stage" "trains the $1 stage" "$2" "${1}_stage_$size" "${tokens[@]}"
  stages+=(--stage_dir="$1=$work/${1}_stage")
}

if [[ -n $text ]]; then
  conditioned text "$text_stage_band"
fi
if [[ -n $pairs ]]; then
  conditioned speech "$speech_stage_band"
fi
if [[ -n $text$pairs ]]; then
  bundle_step=${text:+text_}${pairs:+pairs_}bundle
fi
step "$bundle_step" "exports the complete bundle" "a line with its parts and its size" \
  "$python" -m audiolm_jax.export_bundle --bundle="$tokenizers" \
  --token_store="$work/tokens" "${stages[@]}" \
  --name="$name" --output="$bundle" --storage="$storage"

if [[ -z $dry_run ]]; then
  echo "== $bundle is ready after $SECONDS s of this call. To sample from it:"
  echo "   $python -m audiolm_jax.sample --bundle $bundle --prompt prompt.wav --output out.wav"
fi
