# shellcheck shell=bash
# Starting `jobworker up` for the demo, and signing in. Sourced after lib.sh.

# A first start makes keys and a database: a second or two. A busy machine needs longer.
UP_READY_SECONDS=60
# After a TERM the programs finish what they are writing; jobs are cancelled with their grace (10 s by default).
UP_STOP_SECONDS=30
up_pid=

jobworker() { "$TARGET_DIR/debug/jobworker" "$@"; }

# start_system FOLDER: on free ports, so that nothing that already runs here is in the way, with everything that it
# writes in FOLDER. Sets up_pid and address.
start_system() {
  local folder=$1
  # What the user's own shell says about servers and tokens is not meant here.
  unset JOBWORKER_SERVER JOBWORKER_TOKEN
  export JOBWORKER_CONFIG=$folder/config
  mkdir -p "$folder"
  "$TARGET_DIR/debug/jobworker" up --state "$folder/state" --image "$JOBWORKER_IMAGE" --stop-jobs \
    --listen 127.0.0.1:0 --worker-listen 127.0.0.1:0 \
    --password-file "$folder/password" --ready-file "$folder/ready.json" >"$folder/up.log" 2>&1 </dev/null &
  up_pid=$!
  wait_until "$UP_READY_SECONDS" ready_or_ended "$folder" || true
  if [ ! -s "$folder/ready.json" ]; then
    fail "\`jobworker up\` was not ready after $UP_READY_SECONDS s, or has ended" "it to say so in ready.json" \
      "read its last lines, below"
  fi
  address=$(jq -r .api "$folder/ready.json")
  case $address in http*) ;; *) address=http://$address ;; esac
}

ready_or_ended() { [ -s "$1/ready.json" ] || system_ended; }
system_ended() { ! kill -0 "$up_pid" 2>/dev/null; }

# Fails where the system did not end by itself when it was asked to, or ended badly.
stop_system() {
  [ -n "$up_pid" ] || return 0
  local status=0
  if ! system_ended; then
    kill -TERM "$up_pid"
    wait_until "$UP_STOP_SECONDS" system_ended || kill -KILL "$up_pid"
  fi
  wait "$up_pid" 2>/dev/null || status=$?
  up_pid=
  return "$status"
}
