# shellcheck shell=bash
# Functions for options, messages and --dry_run, which the launch scripts source.
#
# The scripts run in the folder of the repository, so relative paths start there. Usage:
#   SCRIPT [OPTIONS] -- FLAGS
# The scripts pass FLAGS to the Python program unchanged. PYTHON selects the interpreter.

# shellcheck disable=SC2034 # used by the scripts
python=${PYTHON:-python3}
switches=dry_run
dry_run=
flags=()

fail() {
  echo "error: $*" >&2
  exit 2
}

# parse_options "NAMES" ARGUMENTS...: sets the variable of each option, and the array flags. Options
# in NAMES have a value; options in $switches have no value and are set to yes.
parse_options() {
  local _known=" $1 $switches " _option _separated=
  shift
  while (($#)) && [[ -z $_separated ]]; do
    _option=${1%%=*}
    _option=${_option#--}
    case $1 in
      --)
        _separated=yes
        shift
        ;;
      -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "launch/${0##*/}"
        exit 0
        ;;
      --?*)
        [[ $_known == *" $_option "* ]] || fail "unknown option --$_option; see --help"
        if [[ $1 == *=* ]]; then
          printf -v "$_option" %s "${1#*=}"
        elif [[ " $switches " == *" $_option "* ]]; then
          printf -v "$_option" yes
        else
          (($# > 1)) && [[ $2 != -- ]] || fail "--$_option needs a value"
          printf -v "$_option" %s "$2"
          shift
        fi
        shift
        ;;
      *) fail "unexpected argument $1; flags of the program go after --, see --help" ;;
    esac
  done
  flags=("$@")
}

# need OPTION...: fails unless each option has a value.
need() {
  local _option
  for _option in "$@"; do
    [[ -n ${!_option} ]] || fail "--$_option is needed; see --help"
  done
}

# need_flags PROGRAM: fails if there are no flags for the program.
need_flags() {
  ((${#flags[@]})) || fail "give the flags of $1 after --; see --help"
}

# need_number OPTION...: fails unless each option is a whole number above 0.
need_number() {
  local _option
  for _option in "$@"; do
    [[ ${!_option} =~ ^[1-9][0-9]*$ ]] || fail "--$_option ${!_option} is not a number above 0"
  done
}

# need_tool NAME: fails if the command does not exist, except under --dry_run.
need_tool() {
  [[ -n $dry_run ]] || command -v "$1" >/dev/null || fail "$1 is not installed here"
}

# quoted WORDS...: prints one line that a shell parses as these words.
quoted() {
  printf '%q' "$1"
  (($# == 1)) || printf ' %q' "${@:2}"
}

# run COMMAND...: runs the command, or prints it under --dry_run.
run() {
  if [[ -n $dry_run ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# become COMMAND...: like run, but replaces the script by the command, so that the command receives
# the signals of the script.
become() {
  [[ -n $dry_run ]] || exec "$@"
  run "$@"
}
