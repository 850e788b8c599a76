# shellcheck shell=bash
# What every script here shares: messages, privileges, waiting with a deadline, stages with a time budget.
# Sourced, never run. Changes nothing by being sourced, apart from the variables and PATH below.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
# Where the scripts keep what they start: engine logs, the demo's programs. Ignored by git.
STATE_DIR=${JOBWORKER_DEV_STATE:-$ROOT/.state}
# dockerd, mkfs.ext4 and iptables lie in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/sbin:/sbin
export ROOT TARGET_DIR STATE_DIR PATH

set -a
# shellcheck source=scripts/images.env
. "$ROOT/scripts/images.env"
set +a

say() { printf '%s\n' "$*" >&2; }

# fail WHAT_WAS_WRONG WHAT_WAS_EXPECTED WHAT_TO_DO
fail() {
  printf '\nerror: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf '  expected: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  do next:  %s\n' "$3" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with the rights of root; asks for a password only where somebody sits at the terminal.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    if [ -n "${CI:-}" ]; then sudo -n "$@"; else sudo "$@"; fi
  else
    fail "\`$*\` needs root" "to be root, or to have sudo" "run the same make target as root"
  fi
}

# Tenths of a second since a fixed time, for durations.
tenths() { echo $(($(date +%s%N) / 100000000)); }
since() { local d=$(($(tenths) - $1)); echo "$((d / 10)).$((d % 10)) s"; }

# wait_until SECONDS COMMAND...: true as soon as the command is, false when the time is over.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.1
  done
}

# stage NAME BUDGET_SECONDS COMMAND...: runs it under its budget and says how long it took. The command gets a process
# group of its own (so that the time limit reaches its children); interruptions are passed on to it.
stage() {
  local name=$1 budget=$2 start status=0 pid
  shift 2
  start=$(tenths)
  say "==> $name"
  timeout --kill-after=20 "$budget" "$@" </dev/null &
  pid=$!
  # shellcheck disable=SC2064 # the pid of now
  trap "kill -TERM $pid 2>/dev/null; wait $pid; exit 130" INT TERM
  wait "$pid" || status=$?
  trap - INT TERM
  if [ "$status" = 0 ]; then
    say "==> $name: ok in $(since "$start") (budget $budget s)"
  elif [ "$status" = 124 ] || [ "$status" = 137 ]; then
    fail "$name was stopped after its budget of $budget s" "it to end in time" \
      "look at the last lines above: what was it waiting for? A slower machine may set JOBWORKER_BUDGET_FACTOR=2"
  else
    say "==> $name: FAILED with status $status after $(since "$start")"
    exit "$status"
  fi
}

# The budgets are for two cores; a slower machine multiplies them.
budget() { echo $(($1 * ${JOBWORKER_BUDGET_FACTOR:-1})); }

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
