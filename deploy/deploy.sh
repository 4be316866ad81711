#!/usr/bin/env bash
# deploy.sh - puts a release into service beside the old one, and takes it back when it is worse.
#
#   deploy.sh deploy RELEASE [--only api|workers] [--force]
#   deploy.sh rollback [N]        to the Nth (1) older line of the history that is not rolled back
#   deploy.sh status [--json]     who serves, how it is, what the last command did
#   deploy.sh history             the last 5 deployments
#   deploy.sh maintenance on|off  the edge answers for everything
#   deploy.sh resume              makes containers and files agree after a crash
#
# Exit: 0 done; 1 failed, nothing a client sees has changed; 2 failed after the switch and put back; 3 a human is needed;
# 64 wrong usage; 75 another command holds the lock. docs/deployment.md tells the rest.
set -uo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
. "$here/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/records.sh
. "$here/lib/records.sh"
# shellcheck source-path=SCRIPTDIR source=lib/containers.sh
. "$here/lib/containers.sh"
# shellcheck source-path=SCRIPTDIR source=lib/phases.sh
. "$here/lib/phases.sh"

STARTED_AT=$(now)
STARTED_S=$SECONDS
DEPLOY_ID=$(date -u +%Y%m%dT%H%M%SZ)-$$
DEPLOY_ID_OF_LINE=$DEPLOY_ID
DEPLOY_BY=${DEPLOY_BY:-${SUDO_USER:-$(id -un)}}
COMMAND=${1:-none}
PHASE=START_UP
PHASE_S=$SECONDS
FIRST='' ONE_SLOT='' FORCE='' ONLY='' LOCKED='' INTERRUPTED='' SWITCHED='' SWITCHED_S=0
NEW_SLOT='' NEW_FLEET='' ACTIVE='' CONFIG_HASH='' WHY='' DRAIN_KILLED=0
API_RELEASE='' API_DIGEST='' API_IMAGE='' API_SCHEMA_HEAD='' API_SCHEMA_MIN=''
WORKERS_RELEASE='' WORKERS_DIGEST='' WORKERS_IMAGE=''
SERVICE_ENV='' OWNER_ENV='' IMAGE='' SCHEMA='' SCHEMA_HEAD='' SCHEMA_MIN='' STATUS=0 HEADERS='' BODY=''
# Seconds between two looks, how long the old slot is kept after a switch, and how long the edge has to show the new one.
TICK_S=${TICK_S:-0.5}
VERIFY_PAUSE_S=${VERIFY_PAUSE_S:-0.21}
AFTER_SWITCH_S=${AFTER_SWITCH_S:-2}
VERIFY_S=${VERIFY_S:-20}
# Percent of a disk that may be in use; a drill on a machine with other things on it lifts it.
DISK_USED_MAX=${DISK_USED_MAX:-90}

# The lock belongs to this process alone: what it starts must not hold it when it is killed.
exec {LOCK_FD}</dev/null
docker() { command docker "$@" {LOCK_FD}>&-; }
curl() { command curl "$@" {LOCK_FD}>&-; }
sleep() { command sleep "$@" {LOCK_FD}>&-; }

usage() {
  sed -n '4,9p' "${BASH_SOURCE[0]}" | cut -c3- >&2
  PHASE=USAGE
  note error "wrong usage: $*" usage
  write_result 64 usage
  exit 64
}

at_exit() {
  [[ -n $SERVICE_ENV ]] && rm -f "$SERVICE_ENV" "$OWNER_ENV"
  return 0
}
trap at_exit EXIT
trap 'INTERRUPTED=TERM' TERM
trap 'INTERRUPTED=INT' INT
trap '' HUP PIPE

show_status() {
  local slot active release health ready fleet_now one workers='[]' slots='{}' last
  active=$(active_slot)
  for slot in blue green; do
    release=$(label "api-$slot" release)
    health=0 ready=0
    if runs "api-$slot"; then
      probe "$(slot_url "$slot")/health" && health=$STATUS
      probe "$(slot_url "$slot")/ready" && ready=$STATUS
    fi
    slots=$(jq -c --arg slot "$slot" --arg state "$(about "api-$slot" '{{.State.Status}}')" --arg release "$release" \
      --argjson health "$health" --argjson ready "$ready" \
      '. + {($slot): {state: (if $state == "" then "absent" else $state end), release: $release, health: $health, ready: $ready}}' <<<"$slots")
  done
  fleet_now=$(active_fleet)
  for one in $(fleet "$fleet_now"); do
    health=0
    runs "$one" && probe "$(worker_url "$one")/health" && health=$STATUS
    workers=$(jq -c --arg name "$one" --arg release "$(label "$one" release)" --argjson health "$health" \
      '. + [{name: $name, release: $release, health: $health}]' <<<"$workers")
  done
  last=$(cat "$STATE_DIR/last-result.json" 2>/dev/null || echo null)
  local state
  state=$(jq -c --arg active "$active" --argjson slots "$slots" --arg fleet "$fleet_now" --argjson workers "$workers" \
    --argjson maintenance "$(maintenance_is_on && echo true || echo false)" \
    '{active: $active, release: $slots[$active].release, slots: $slots, fleet: {active: $fleet, workers: $workers},
      maintenance: $maintenance, last_result: .}' <<<"$last")
  if [[ ${1:-} == --json ]]; then
    printf '%s\n' "$state"
  else
    jq -r '"active       \(.active), release \(.release)" + (if .maintenance then "   MAINTENANCE IS ON" else "" end),
      (.slots | to_entries[] | "api-\(.key)\(if .key == "blue" then " " else "" end)    \(.value.state) \(.value.release) health \(.value.health) ready \(.value.ready)"),
      (.fleet.workers[] | "\(.name) \(.release) health \(.health)"),
      (.last_result | if . == null then "last         nothing yet"
        else "last         \(.command): \(.result) \(.reason) in \(.phase), \(.started_at), \(.duration_s) s" end)' <<<"$state"
  fi
}

show_history() {
  lines | jq -r '"\(if .active then "*" elif .rolled_back then "x" else " " end) \(.at) api \(.api.release) workers \(.workers.release) schema \(.schema_head) by \(.by), \(.duration_s) s"'
}

run_deploy() {
  lock
  recover
  preflight
  if [[ -z $FORCE && -z $FIRST ]] && already_there; then
    note info "$RELEASE is in service and healthy: nothing to do"
    finish 0 ''
  fi
  API_RELEASE=$RELEASE WORKERS_RELEASE=$RELEASE
  pull
  check
  migrate
  [[ $ONLY == api ]] || workers
  if [[ $ONLY != workers ]]; then
    start
    health
    switch
    verify
    watch
  fi
  drain
  record
  clean
  NEW_SLOT='' NEW_FLEET=''
  finish 0 ''
}

already_there() {
  local slot fleet_now
  slot=$(active_slot)
  fleet_now=$(active_fleet)
  [[ $ONLY == workers || ($(label "api-$slot" release) == "$RELEASE") ]] || return 1
  [[ $ONLY == api || ($(label "worker-$fleet_now-1" release) == "$RELEASE") ]] || return 1
  probe "$(slot_url "$slot")/health" && [[ $STATUS == 200 ]]
}

run_rollback() {
  local target
  target=$(lines | jq -cs --argjson n "$BACK" '(map(.active) | index(true)) as $at
    | if $at == null then empty else .[$at + 1:] | map(select(.rolled_back | not)) | .[$n - 1] // empty end')
  if [[ -z $target ]]; then
    PHASE=USAGE
    show_history >&2
    note error "there is no such line to go back to" no_target
    write_result 64 no_target
    exit 64
  fi
  lock
  recover
  # What was cut off may have moved the active line.
  target=$(lines | jq -cs --argjson n "$BACK" '(map(.active) | index(true)) as $at
    | if $at == null then empty else .[$at + 1:] | map(select(.rolled_back | not)) | .[$n - 1] // empty end')
  [[ -n $target ]] || fail 64 no_target "there is no such line to go back to"
  preflight
  DEPLOY_ID_OF_LINE=$(jq -r .id <<<"$target")
  API_RELEASE=$(jq -r .api.release <<<"$target") API_DIGEST=$(jq -r .api.digest <<<"$target")
  WORKERS_RELEASE=$(jq -r .workers.release <<<"$target") WORKERS_DIGEST=$(jq -r .workers.digest <<<"$target")
  pull
  check
  # The other way round: the API that may write new jobs goes first.
  if [[ $(label "api-$(active_slot)" digest) != "$API_DIGEST" ]]; then
    start
    health
    switch
    verify
    watch
  fi
  SWITCHED=yes
  if [[ $(label "worker-$(active_fleet)-1" digest) != "$WORKERS_DIGEST" ]]; then workers; fi
  drain
  record
  clean
  NEW_SLOT='' NEW_FLEET=''
  finish 0 ''
}

read_settings "$here/.."
limited
mkdir -p "$STATE_DIR" 2>/dev/null && chmod 0750 "$STATE_DIR" 2>/dev/null
[[ -d $EDGE ]] || { mkdir -p "$EDGE" 2>/dev/null && chmod 0755 "$EDGE" 2>/dev/null; }
for program in docker jq curl flock; do
  command -v "$program" >/dev/null || { printf 'deploy.sh: %s is not installed\n' "$program" >&2; exit 1; }
done

RELEASE=''
case $COMMAND in
  deploy)
    shift
    while (($#)); do
      case $1 in
        --only)
          [[ ${2:-} == api || ${2:-} == workers ]] || usage "--only api or --only workers"
          ONLY=$2
          shift
          ;;
        --force) FORCE=yes ;;
        -*) usage "$1 is unknown" ;;
        *)
          [[ -z $RELEASE ]] || usage "one release"
          RELEASE=$1
          ;;
      esac
      shift
    done
    [[ $RELEASE =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ && $RELEASE != latest ]] || usage "a release is needed, and it is not called latest"
    if [[ $APP_ENV == production && ! $RELEASE =~ ^[0-9a-f]{40}$ ]]; then usage "in production a release is a full commit"; fi
    run_deploy
    ;;
  rollback)
    BACK=${2:-1}
    [[ $# -le 2 && $BACK =~ ^[1-4]$ ]] || usage "rollback takes 1 to 4"
    run_rollback
    ;;
  status)
    [[ $# == 1 || (${2:-} == --json && $# == 2) ]] || usage "status takes --json"
    show_status "${2:-}"
    ;;
  history)
    [[ $# == 1 ]] || usage "history takes nothing"
    show_history
    ;;
  maintenance)
    [[ $# == 2 && ($2 == on || $2 == off) ]] || usage "maintenance on or off"
    COMMAND="maintenance $2"
    lock
    PHASE=MAINTENANCE
    maintenance "$2" || fail 1 switch_failed "$EDGE cannot be written"
    note info "maintenance is $2"
    finish 0 ''
    ;;
  resume)
    [[ $# == 1 ]] || usage "resume takes nothing"
    lock
    recover
    finish 0 ''
    ;;
  *) usage "${1:-no command}" ;;
esac
