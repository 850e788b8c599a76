# shellcheck shell=bash
# Starting `jobworker up` for the demo and for `make up`, and what its output tells. Sourced after lib.sh.

# A first start makes keys and a database; seen: a second or two.
UP_READY_SECONDS=60

jobworker() { "$TARGET_DIR/debug/jobworker" "$@"; }

# start_system STATE LOG: on free ports, so that nothing that already runs here is in the way. Sets up_pid.
start_system() {
  local state=$1 log=$2
  DEFAULT_IMAGE=$JOBWORKER_IMAGE "$TARGET_DIR/debug/jobworker" up --dev --state "$state" \
    --http 127.0.0.1:0 --https 127.0.0.1:0 --workers-listen 127.0.0.1:0 --admin 127.0.0.1:0 \
    >"$log" 2>&1 </dev/null &
  up_pid=$!
  wait_until "$UP_READY_SECONDS" system_is_ready "$log" || {
    tail -n 20 "$log" >&2
    fail "\`jobworker up\` was not ready after $UP_READY_SECONDS s" "a line with its address in $log" "read the lines above"
  }
}

system_is_ready() {
  kill -0 "$up_pid" 2>/dev/null || return 0
  [ -n "$(told_address "$1")" ]
}

told_address() { grep -oE 'http://127\.0\.0\.1:[0-9]+' "$1" | head -n 1; }
told_password() { sed -nE 's/.*password[^:]*: *([^ ]+).*/\1/p' "$1" | head -n 1; }
