#!/usr/bin/env bash
# Every row of the state machine's table, every failure forced once, on an engine of files: fast enough for each check.
# The same with a real engine, images and traffic is tests/drill.sh.
#
#   deploy.test.sh [states|kills|phases]     all beside each other by default
set -u
if [[ $# == 0 ]]; then
  "$0" states &
  states=$!
  "$0" kills &
  kills=$!
  "$0" phases
  code=$?
  wait "$states" || code=1
  wait "$kills" || code=1
  exit "$code"
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deploy=$here/../deploy.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export FAKE=$work/engine STATE_DIR=$work/state ENV_FILE=$work/env
export PATH=$here/fakes:$PATH TICK_S=0.01 VERIFY_PAUSE_S=0 AFTER_SWITCH_S=0 WATCH_S=0 HEALTH_TIMEOUT_S=20 VERIFY_S=20 DEPLOY_BY=tester
unset ENV_FILE_BACKUP IMAGE_REPO PULL_POLICY API_SUBNET WORKER_REPLICAS SMOKE_TOKEN APP_ENV API_HOSTNAME API_BASE_URL NOFILE
failed=0 passed=0 case_name=''

begin() {
  [[ -z ${VERBOSE:-} ]] || printf '%s s %s\n' "$SECONDS" "$1"
  case_name=$1
  rm -rf "$work/engine" "$work/state" 2>/dev/null || { sleep 0.2; rm -rf "$work/engine" "$work/state"; }
  mkdir -p "$FAKE"/{containers,images,knobs,registry} "$STATE_DIR/edge"
  chmod 755 "$STATE_DIR/edge"
  mkdir -p "$FAKE/containers/nginx"
  printf running >"$FAKE/containers/nginx/status"
  printf 172.30.0.10 >"$FAKE/containers/nginx/ip"
  printf '0.0.0.0:443->443/tcp' >"$FAKE/containers/nginx/ports"
  cat >"$ENV_FILE" <<'ENV'
API_HOSTNAME=api.example.com
API_BASE_URL=https://api.example.com
DATABASE_URL=postgres://app:app-secret@db/x
MIGRATION_DATABASE_URL=postgres://owner:owner-secret@db/x
SMOKE_TOKEN=
METRICS_SCRAPE_TOKEN="quoted-token"
GRAFANA_ADMIN_PASSWORD=grafana-secret
ENV
  chmod 600 "$ENV_FILE"
  local release
  for release in r1 r2 r3 r4 r5 r6 r7; do image "$release" 5; done
}

# image RELEASE SCHEMA_HEAD: both images of a release, in the registry
image() {
  local name folder
  for name in api-gateway distance-worker; do
    folder=$FAKE/registry/fieldtrack+$name:$1
    mkdir -p "$folder"
    printf '%s' "$1" >"$folder/revision"
    printf '%s' "$2" >"$folder/head"
    printf 'sha256:%s%s' "$name" "$1" >"$folder/id"
  done
}

# keep NAME, begin_from NAME CASE: everything as it was, without deploying anew
keep() { rm -rf "${work:?}/kept-$1"; mkdir "$work/kept-$1"; cp -a "$work/engine" "$work/state" "$work/kept-$1/"; }
begin_from() {
  begin "$2"
  rm -rf "$work/engine" "$work/state"
  cp -a "$work/kept-$1/." "$work/"
}

knob() { printf '%s' "${2:-}" >"$FAKE/knobs/$1"; }
no_knob() { rm -f "$FAKE/knobs/$1"; }

run() {
  : >"$FAKE/changes.log"
  rm -f "$FAKE/changes"
  # shellcheck disable=SC2016
  setsid bash -c 'echo $$ >"$FAKE/pid"; exec "$@"' _ "$deploy" "$@" >"$work/out" 2>"$work/err"
  code=$?
}

wrong() {
  failed=$((failed + 1))
  printf 'FAILED %s: %s\n' "$case_name" "$1"
  [[ -z ${VERBOSE:-} ]] || jq -r '"    \(.phase) \(.level) \(.msg) \(.reason // "")"' "$work/err" | tail -n 6
}
is() { if [[ $2 == "$3" ]]; then passed=$((passed + 1)); else wrong "$1 is \"$2\", not \"$3\""; fi; }

# expect EXIT REASON: of the last run, and in last-result.json
expect() {
  is 'exit code' "$code" "$1"
  is 'reason' "$(jq -r .reason "$STATE_DIR/last-result.json" 2>/dev/null)" "$2"
  is 'result' "$(jq -r .result "$STATE_DIR/last-result.json" 2>/dev/null)" "$1"
}
serves() { # SLOT RELEASE
  is 'active slot' "$(if [[ -e $STATE_DIR/edge/green.active ]]; then echo green; else echo blue; fi)" "$1"
  is "release of api-$1" "$(cat "$FAKE/containers/api-$1/label.release" 2>/dev/null)" "$2"
  is "state of api-$1" "$(cat "$FAKE/containers/api-$1/status" 2>/dev/null)" running
}
fleet() { # SLOT RELEASE: the only fleet that runs
  local running
  running=$(for one in "$FAKE"/containers/worker-*/; do [[ $(cat "$one/status" 2>/dev/null) == running ]] && printf '%s ' "$(basename "$one"):$(cat "$one/label.release")"; done)
  is fleet "$running" "worker-$1-1:$2 worker-$1-2:$2 "
}
history() { is history "$(jq -r '"\(.api.release)/\(.workers.release)\(if .active then "*" else "" end)\(if .rolled_back then "x" else "" end)"' "$STATE_DIR/deployments.jsonl" | tr '\n' ' ')" "$1"; }
status_is() { is status "$("$deploy" status --json 2>/dev/null | jq -r "$1")" "$2"; }

states() {
# --- what succeeds ---

begin 'a first deployment goes to blue, the next to green, and the last five are kept'
run deploy r1
expect 0 ''
serves blue r1
fleet blue r1
history 'r1/r1* '
is 'order' "$(cut -d' ' -f2- "$FAKE/changes.log" | tr '\n' ,)" 'migrate,run worker-blue-1,run worker-blue-2,run api-blue,'
is 'owner in the services' "$(grep -c owner-secret "$FAKE/last-env.serve")" 0
is 'grafana in the services' "$(grep -c grafana-secret "$FAKE/last-env.serve")" 0
is 'quotes are cut' "$(grep -c '^METRICS_SCRAPE_TOKEN=quoted-token$' "$FAKE/last-env.serve")" 1
is 'trusted proxy' "$(grep TRUSTED "$FAKE/last-env.serve")" TRUSTED_PROXIES=172.30.0.10
is 'owner migrates' "$(cat "$FAKE/last-env.migrate")" MIGRATION_DATABASE_URL=postgres://owner:owner-secret@db/x
is 'secrets left behind' "$(find "$STATE_DIR" -name '.env*' | wc -l)" 0
is 'secrets in the log' "$(grep -cE 'secret|quoted-token' "$STATE_DIR/deploy.log")" 0
run deploy r2
expect 0 ''
serves green r2
fleet green r2
is 'old slot is kept stopped' "$(cat "$FAKE/containers/api-blue/status")" exited
is 'order' "$(cut -d' ' -f2- "$FAKE/changes.log" | grep -v image | tr '\n' ,)" 'migrate,run worker-green-1,run worker-green-2,run api-green,stop api-blue,stop worker-blue-2,'
for release in r3 r4 r5 r6; do run deploy "$release"; done
history 'r6/r6* r5/r5 r4/r4 r3/r3 r2/r2 '
is 'images of forgotten releases' "$(find "$FAKE/images" -name '*:r1' | wc -l)" 0
is 'images of known releases' "$(find "$FAKE/images" -name '*:r2' | wc -l)" 2
case_name='a rollback does not wait for the engine to look, but looks itself'
knob never-healthy; knob own-check-fails
HEALTH_TIMEOUT_S=2 run rollback
expect 1 health_timeout
serves green r6
no_knob own-check-fails
case_name='rollbacks go further back, never forth'
HEALTH_TIMEOUT_S=2 run rollback
expect 0 ''
no_knob never-healthy
serves blue r5
fleet blue r5
history 'r6/r6x r5/r5* r4/r4 r3/r3 r2/r2 '
is 'the API goes back first, nothing is migrated' "$(cut -d' ' -f2- "$FAKE/changes.log" | grep -E 'migrate|run' | tr '\n' ,)" 'run api-blue,run worker-blue-1,run worker-blue-2,'
run rollback 2
expect 0 ''
history 'r6/r6x r5/r5x r4/r4x r3/r3* r2/r2 '
run deploy r7
history 'r7/r7* r6/r6x r5/r5x r4/r4x r3/r3 '
run rollback
history 'r7/r7x r6/r6x r5/r5x r4/r4x r3/r3* '
run rollback
expect 64 no_target
serves green r3
case_name='what is there already is left alone, unless forced'
run deploy r3
expect 0 ''
is 'changes' "$(grep -v ' rm ' "$FAKE/changes.log")" ''
run deploy r3 --force
is 'changes' "$(grep -c 'run api' "$FAKE/changes.log")" 1
case_name='one unit at a time'
run deploy r6 --only workers
expect 0 ''
history 'r3/r6* r3/r3 r7/r7x r6/r6x r5/r5x '
is 'the API is not touched' "$(grep -cE "(run|stop) api-" "$FAKE/changes.log")" 0
run deploy r7 --only api
expect 0 ''
history 'r7/r6* r3/r6 r3/r3 r7/r7x r6/r6x '
run rollback
history 'r7/r6x r3/r6* r3/r3 r7/r7x r6/r6x '
is 'the workers are not touched' "$(grep -c worker- "$FAKE/changes.log")" 0
run rollback
history 'r7/r6x r3/r6x r3/r3* r7/r7x r6/r6x '
is 'the API is not touched' "$(grep -cE "(run|stop) api-" "$FAKE/changes.log")" 0

# --- what fails before the switch: exit 1, the old slot serves, nothing is left ---

begin 'failures before the switch'
run deploy r1
refused() { # NAME REASON
  case_name="$1: $2"
  run deploy r2
  expect 1 "$2"
  serves blue r1
  fleet blue r1
  history 'r1/r1* '
  is leftovers "$(find "$FAKE/containers" -maxdepth 1 -name '*green*' | wc -l)" 0
  status_is '"\(.active) \(.release) \(.slots.blue.health) \(.last_result.reason)"' "blue r1 200 $2"
}
with() { # KNOB REASON [VALUE]
  knob "$1" "${3:-}"
  refused "$1" "$2"
  no_knob "$1"
}
knob engine-down; run deploy r2; is 'without an engine' "$code" 3; no_knob engine-down; rm -f "$STATE_DIR/edge/maintenance.on"
with disk preflight_disk '1000 40%'
with disk preflight_disk '50000 95%'
with no-network preflight_network
with subnet preflight_subnet 10.0.0.0/24
with nginx-bad preflight_nginx_config
with pull-fails pull_failed
with bad-config bad_config
with floor schema_too_new 6
with database-away preflight_database
with migrate-fails migrate_failed
with no-start-worker-green-2 workers_unhealthy
with crash-worker-green-1 workers_unhealthy
HEALTH_TIMEOUT_S=3 with unhealthy-worker-green-1 workers_unhealthy
HEALTH_TIMEOUT_S=3 with not-ready-worker-green-2 workers_unhealthy
HEALTH_TIMEOUT_S=3 with not-ready-api-green not_ready
with no-start-api-green start_failed
with crash-api-green crashed
HEALTH_TIMEOUT_S=3 with unhealthy-api-green health_timeout
HEALTH_TIMEOUT_S=3 with never-healthy health_timeout
with wrong-release-api-green wrong_release
chmod 644 "$ENV_FILE"; refused 'env file' preflight_env_mode; chmod 600 "$ENV_FILE"
printf exited >"$FAKE/containers/nginx/status"; refused 'nginx is down' preflight_nginx; printf running >"$FAKE/containers/nginx/status"
printf 172.30.0.99 >"$FAKE/containers/nginx/ip"; refused 'nginx elsewhere' preflight_nginx; printf 172.30.0.10 >"$FAKE/containers/nginx/ip"
mkdir "$FAKE/containers/leaky"; printf running >"$FAKE/containers/leaky/status"; printf '0.0.0.0:5432->5432/tcp' >"$FAKE/containers/leaky/ports"
refused 'a published port' preflight_port_leak
printf '127.0.0.1:9100->9100/tcp' >"$FAKE/containers/leaky/ports"
printf 'MemAvailable: 1000 kB\n' >"$work/meminfo"; PROC_MEMINFO=$work/meminfo refused 'little memory' preflight_memory
API_HOSTNAME=elsewhere.example refused 'another host' preflight_hostname
WORKER_REPLICAS=none refused 'a setting' preflight_settings
CLOCK_OFF='10 seconds ago' refused 'the clock' preflight_clock
touch "$STATE_DIR/edge/maintenance.on"; refused 'maintenance' preflight_maintenance; rm "$STATE_DIR/edge/maintenance.on"
rm -rf "$FAKE"/images/*r2; printf other >"$FAKE/registry/fieldtrack+api-gateway:r2/revision"; refused 'labels' label_missing; image r2 5
rm -rf "$FAKE"/images/*r2
PULL_POLICY=never refused 'nothing may be pulled' pull_failed
knob signal-at 4; refused 'SIGTERM' interrupted; no_knob signal-at
chmod 0755 "$STATE_DIR/edge"
case_name='both slots not ready is no reason'
knob dependency-away
run deploy r2
expect 0 ''
serves green r2
no_knob dependency-away
case_name='a tag that moved'
printf 'sha256:moved' >"$FAKE/registry/fieldtrack+api-gateway:r1/id"
rm -rf "$FAKE"/images/*r1
run deploy r1
expect 1 digest_mismatch
serves green r2

# --- what fails after the switch: put back ---

begin 'failures after the switch'
run deploy r1
put_back() {
  case_name="$1: $2"
  run deploy r2
  expect 2 "$2"
  serves blue r1
  fleet blue r1
  history 'r1/r1* '
  is leftovers "$(find "$FAKE/containers" -maxdepth 1 -name '*green*' | wc -l)" 0
}
export WATCH_S=2
knob errors-api-green 20; put_back 'errors' regression; no_knob errors-api-green
knob sick-after-switch-api-green; put_back 'health' regression; no_knob sick-after-switch-api-green
export WATCH_S=0
knob smoke-fails; SMOKE_TOKEN=smoke put_back 'smoke' verify_failed; no_knob smoke-fails
case_name='SIGTERM after the switch ends what was begun'
knob signal-at 5
run deploy r2
expect 0 ''
serves green r2
no_knob signal-at
case_name='a container that does not stop in time is counted, the deployment stands'
knob slow-api-green
run deploy r3
expect 0 ''
serves blue r3
is counted "$(grep '^deploy_drain_killed_total' "$STATE_DIR/metrics/fieldtrack_deploy.prom")" 'deploy_drain_killed_total 1'
no_knob slow-api-green
case_name='nothing can be put back'
knob smoke-fails; knob no-start-api-blue
: >"$FAKE/knobs/dies"
export WATCH_S=2
knob errors-api-green 20
# the old slot dies meanwhile
(while ! [[ -e $STATE_DIR/edge/green.active ]]; do sleep 0.01; done; printf exited >"$FAKE/containers/api-blue/status") &
run deploy r4
expect 3 rollback_failed
is maintenance "$(ls "$STATE_DIR/edge")" "$(printf 'green.active\nmaintenance.on')"
export WATCH_S=0
wait

# --- first deployments, locks, usage, maintenance ---

begin 'a first deployment that fails leaves maintenance on, and the next one works'
knob unhealthy-api-blue
HEALTH_TIMEOUT_S=3 run deploy r1
expect 1 health_timeout
is maintenance "$(ls "$STATE_DIR/edge")" maintenance.on
no_knob unhealthy-api-blue
HEALTH_TIMEOUT_S=3 run deploy r1
expect 0 ''
serves blue r1
is maintenance "$(ls "$STATE_DIR/edge")" ''
case_name='the edge cannot be told'
ln -s "$work/nowhere/green" "$STATE_DIR/edge/green.active"
run deploy r2
expect 1 switch_failed
serves blue r1
fleet blue r1
rm "$STATE_DIR/edge/green.active"
case_name='two at once'
(flock 8; sleep 1) 8>>"$STATE_DIR/deploy.lock" &
sleep 0.2
run deploy r2
expect 75 locked
serves blue r1
wait
run deploy r2
expect 0 ''
case_name='wrong usage'
for words in 'deploy' 'deploy latest' 'deploy r1 r2' 'deploy r1 --only db' 'deploy ../x' 'rollback 9' 'rollback x' 'maintenance' 'nonsense'; do
  # shellcheck disable=SC2086
  run $words
  is "$words" "$code" 64
done
APP_ENV=production run deploy r3
is 'a tag in production' "$code" 64
case_name='maintenance'
run maintenance on
expect 0 ''
status_is .maintenance true
run deploy r3 --force
expect 0 ''
serves blue r3
run maintenance off
status_is .maintenance false
case_name='a slot that died is started again'
printf exited >"$FAKE/containers/api-blue/status"
run resume
expect 0 ''
serves blue r3
rm -rf "$FAKE/containers/api-blue"
run resume
serves blue r3
case_name='no slot can be made healthy'
knob unhealthy-api-blue; knob unhealthy-api-green
HEALTH_TIMEOUT_S=2 run resume
expect 3 active_slot_dead
is maintenance "$(ls "$STATE_DIR/edge")" maintenance.on

}

kills() {
# --- killed around every change of the engine: the next command works ---

begin 'deployments to be killed'
run deploy r1
keep one
run deploy r2
keep two
# shellcheck disable=SC2043
for when in before; do
  for ((at = 1; at <= 12; at++)); do
    begin_from one "killed $when change $at of a deployment"
    knob "kill-$when" "$at"
    run deploy r2
    no_knob "kill-$when"
    [[ $code == 0 ]] && break
    active=blue
    [[ -e $STATE_DIR/edge/green.active ]] && active=green
    is 'the active slot runs' "$(cat "$FAKE/containers/api-$active/status")" running
    run resume
    expect 0 ''
    if [[ $active == green ]]; then
      serves green r2
      fleet green r2
      history 'r2/r2* r1/r1 '
    else
      serves blue r1
      fleet blue r1
      history 'r1/r1* '
    fi
    if ((at % 3 == 0)); then
      run deploy r3
      expect 0 ''
    fi
  done
  is 'every change was tried' "$((at > 6))" 1
  for ((at = 1; at <= 12; at++)); do
    begin_from two "killed $when change $at of a rollback"
    knob "kill-$when" "$at"
    run rollback
    no_knob "kill-$when"
    [[ $code == 0 ]] && break
    run resume
    expect 0 ''
    if [[ -e $STATE_DIR/edge/green.active ]]; then
      serves green r2
      fleet green r2
      history 'r2/r2* r1/r1 '
    else
      serves blue r1
      is 'API of the history' "$(jq -r 'select(.active) | .api.release' "$STATE_DIR/deployments.jsonl")" r1
      is 'workers of the history run' "$(cat "$FAKE/containers/worker-$(cat "$STATE_DIR/worker-active")-1/label.release")" r1
    fi
    if ((at % 3 == 0)); then
      run deploy r3
      expect 0 ''
    fi
  done
  is 'every change was tried' "$((at > 6))" 1
done

}

phases() {
# --- killed at the end of every phase: the active slot serves, status tells the truth, the next deployment works ---

local phase kept active release
begin 'deployments to be killed'
run deploy r1
keep one
run deploy r2
keep two
for phase in RECOVER PREFLIGHT PULL CHECK MIGRATE WORKERS START HEALTH SWITCH VERIFY WATCH DRAIN RECORD CLEAN; do
  for kept in one two; do
    # From the first a deployment is killed, from the second a rollback to the first, which migrates nothing.
    [[ $kept/$phase != two/MIGRATE ]] || continue
    begin_from "$kept" "killed at the end of $phase of a $([[ $kept == one ]] && echo deployment || echo rollback)"
    active=blue release=r1
    case $phase/$kept in
      SWITCH/one | VERIFY/one | WATCH/one | DRAIN/one | RECORD/one | CLEAN/one) active=green release=r2 ;;
      SWITCH/two | VERIFY/two | WATCH/two | DRAIN/two | RECORD/two | CLEAN/two | WORKERS/two) ;;
      */two) active=green release=r2 ;;
    esac
    if [[ $kept == one ]]; then set -- deploy r2; else set -- rollback; fi
    { KILL_AT=$phase PATH=$here/killer:$PATH run "$@"; } 2>/dev/null
    is 'exit code' "$code" 137
    serves "$active" "$release"
    status_is '"\(.active) \(.release) \(.slots[.active].health)"' "$active $release 200"
    run deploy r3
    expect 0 ''
    if [[ $active == blue ]]; then active=green; else active=blue; fi
    serves "$active" r3
    fleet "$(cat "$STATE_DIR/worker-active")" r3
    status_is '"\(.active) \(.release) \(.slots[.active].health) \(.last_result.result)"' "$active r3 200 0"
    is 'the newest line' "$(head -n 1 "$STATE_DIR/deployments.jsonl" | jq -r '"\(.api.release) \(.workers.release) \(.active)"')" 'r3 r3 true'
    is 'the line before' "$(sed -n 2p "$STATE_DIR/deployments.jsonl" | jq -r .api.release)" "$(if [[ $kept == one ]]; then echo "$release"; else echo r2; fi)"
  done
done

}

case $1 in
  kills) kills ;;
  phases) phases ;;
  *) states ;;
esac
printf '%s checks passed, %s failed\n' "$passed" "$failed"
exit "$((failed > 0))"
