#!/usr/bin/env bash
# drill.sh - the state machine with a real engine: images of ours, the edge with TLS, traffic all the while.
#
#   deploy/tests/drill.sh DIR     DIR holds release builds of api-gateway and distance-worker
#
# Needs a running engine with the images of compose.yaml, root, node. Uses the names, network and ports of the product
# (HTTPS_PORT 18443), so not on a machine that serves it. Three deployments and a rollback under load, a kill around every
# change of the engine and between phases, deployments that have to fail, two at once; then counts what was lost. Prints
# what it finds; exit 1 when anything was.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
programs=${1:?a folder with both programs}
host=api.drill.example
work=$(mktemp -d /tmp/drill.XXXXXX)
chmod 755 "$work"
export APP_ENV=staging STATE_DIR=$work/state HTTP_PORT=18080 HTTPS_PORT=18443 ENV_FILE=$work/env PULL_POLICY=never
export IMAGE_REPO=fieldtrack DISK_USED_MAX=${DISK_USED_MAX:-98} WATCH_S=${WATCH_S:-5} NOFILE
NOFILE=$(ulimit -Hn)
((NOFILE <= 65536)) || NOFILE=65536
deploy=$root/deploy/deploy.sh
compose() { docker compose --project-directory "$root" --env-file "$ENV_FILE" --file "$root/compose.yaml" "$@"; }
say() { printf '%s\n' "$*"; }
failures=0
wrong() { failures=$((failures + 1)); say "WRONG: $*"; }
is() { [[ $2 == "$3" ]] || wrong "$1 is $2, not $3"; }

cleanup() {
  [[ -z ${load:-} ]] || kill "$load" 2>/dev/null || true
  [[ -n ${KEEP:-} ]] && { say "kept: ENV_FILE=$ENV_FILE STATE_DIR=$STATE_DIR"; return; }
  docker ps --all --quiet --filter 'name=^(api|worker)-(blue|green)' | xargs -r docker rm --force --volumes >/dev/null
  compose --profile monitoring down --volumes >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

for release in r1 r2 r3 r4 r5; do "$root/deploy/build-images.sh" "$release" --prebuilt "$programs"; done
"$root/deploy/make-env.sh" "$host" "$ENV_FILE" 2>/dev/null
# Load comes from one address, and one session takes all its points; neither limit is what is tried here.
sed -i 's,^MAX_POINTS_PER_SESSION=.*,MAX_POINTS_PER_SESSION=10000000,; s,^NGINX_RATE_\(.*\)=.*,NGINX_RATE_\1=100000r/s,; s,^RATE_LIMIT_MULTIPLIER=.*,RATE_LIMIT_MULTIPLIER=100000,' "$ENV_FILE"
mkdir -p "$STATE_DIR"/{edge,tls,acme,metrics}
chmod 755 "$STATE_DIR/edge"
compose up --detach --wait postgres redis nginx >/dev/null 2>&1
"$deploy" deploy r1 2>>"$work/log" || { tail -n 3 "$work/log"; exit 1; }

ask() { curl --silent --insecure --resolve "$host:$HTTPS_PORT:127.0.0.1" --max-time 10 "https://$host:$HTTPS_PORT$1" "${@:2}"; }
password=drill-password-1
grep -E '^(DATABASE_URL|SYSTEM_DATABASE_URL|REDIS_URL|SECRETS_KEY)=' "$ENV_FILE" >"$work/make"
docker run --rm --network api_network --env-file "$work/make" --env ADMIN_PASSWORD=$password fieldtrack/api-gateway:r1 \
  organization create --name Drill --slug drill --admin-email admin@drill.example >/dev/null
sign_in() { ask /auth/login --json "{\"email\":\"$1\",\"password\":\"$password\"}" | jq -r .data.access_token; }
admin=$(sign_in admin@drill.example)
ask /admin/employees --header "Authorization: Bearer $admin" \
  --json "{\"name\":\"Asha\",\"email\":\"asha@drill.example\",\"password\":\"$password\"}" >/dev/null
token=$(sign_in asha@drill.example)
session=$(ask /attendance/check-in --header "Authorization: Bearer $token" --json '{}' | jq -r .data.id)
[[ $session == *-* ]] || { say "nobody could check in"; exit 1; }

streams=0
[[ $(ask /admin/events --header "Authorization: Bearer $admin" --max-time 1 --output /dev/null --write-out '%{http_code}' || true) == 200 ]] && streams=8
start_load() {
  node "$here/load.mjs" --url "https://$host:$HTTPS_PORT" --connections 32 --fresh 4 --streams "$streams" \
    --token "$token" --admin "$admin" --session "$session" >"$work/load.$1" &
  load=$!
  sleep 3
}
stop_load() {
  kill "$load"
  wait "$load" || true
  load=
}

say "## Three deployments and a rollback under load"
start_load calm
for release in r2 r3 r4; do
  "$deploy" deploy "$release" 2>>"$work/log" || wrong "deploy $release ended with $?"
  is "release" "$("$deploy" status --json | jq -r .release)" "$release"
  say "deploy $release: $(jq -r .duration_s "$STATE_DIR/last-result.json") s"
done
"$deploy" rollback 2>>"$work/log" || wrong "rollback ended with $?"
is "release after the rollback" "$("$deploy" status --json | jq -r .release)" r3
say "rollback: $(jq -r .duration_s "$STATE_DIR/last-result.json") s, $(jq -r 'select(.phase == "SWITCH") | .msg' "$STATE_DIR/deploy.log" | grep traffic | tail -n 1)"
sleep 2
stop_load
jq -c . "$work/load.calm"
is 'lost requests' "$(jq .failed "$work/load.calm")" 0

say "## Killed around every change of the engine"
mkdir "$work/bin"
cat >"$work/bin/docker" <<'WRAPPER'
#!/usr/bin/env bash
# The engine's client, but for one change: there the whole command is killed.
case "$1 ${2:-}" in
  'run --detach' | 'stop '* | 'start '* | 'rm '*)
    count=$(($(cat "$DRILL/count" 2>/dev/null || echo 0) + 1))
    echo "$count" >"$DRILL/count"
    if [[ $count == "$(cat "$DRILL/kill-at")" ]]; then
      touch "$DRILL/killed"
      kill -9 -- "-$(cut -d ' ' -f 5 /proc/$$/stat)"
    fi
    ;;
esac
exec "$(PATH=${PATH#*:} command -v docker)" "$@"
WRAPPER
chmod +x "$work/bin/docker"
start_load killed
release=r5
for ((at = 1; at <= 9; at++)); do
  rm -f "$work/count" "$work/killed"
  echo "$at" >"$work/kill-at"
  DRILL=$work PATH=$work/bin:$PATH setsid "$deploy" deploy "$release" 2>>"$work/log" || true
  [[ -e $work/killed ]] || break
  before=$("$deploy" status --json | jq -r '"\(.active) \(.release) \(.slots[.active].health)"')
  [[ $before == *' 200' ]] || wrong "after a kill at change $at: $before"
  "$deploy" resume 2>>"$work/log" || wrong "resume after a kill at change $at ended with $?"
  say "killed at change $at, $before; after resume $("$deploy" status --json | jq -r '"\(.active) \(.release)"')"
  [[ $("$deploy" status --json | jq -r .release) != "$release" ]] || { if [[ $release == r5 ]]; then release=r4; else release=r5; fi; }
done
# And where one phase has ended and the next has not begun: before the switch, after it, at the very end.
[[ $("$deploy" status --json | jq -r .release) != "$release" ]] || { if [[ $release == r5 ]]; then release=r4; else release=r5; fi; }
for phase in HEALTH SWITCH VERIFY DRAIN; do
  code=0
  KILL_AT=$phase PATH=$here/killer:$PATH setsid --wait "$deploy" deploy "$release" 2>>"$work/log" || code=$?
  is "the code of one killed after $phase" "$code" 137
  before=$("$deploy" status --json | jq -r '"\(.active) \(.release) \(.slots[.active].health)"')
  [[ $before == *' 200' ]] || wrong "after a kill at the end of $phase: $before"
  # The next command is a deployment: it has to put right what is left.
  if [[ $before == *" $release "* ]]; then if [[ $release == r5 ]]; then release=r4; else release=r5; fi; fi
  "$deploy" deploy "$release" 2>>"$work/log" || wrong "the deployment after a kill at the end of $phase ended with $?"
  is 'release' "$("$deploy" status --json | jq -r .release)" "$release"
  say "killed at the end of $phase, $before; the next deployment put $release into service"
  if [[ $release == r5 ]]; then release=r4; else release=r5; fi
done

say "## Failures"
active=$("$deploy" status --json | jq -r .release)
# refused RELEASE REASON: and who serves goes on serving.
refused() {
  local code=0
  HEALTH_TIMEOUT_S=8 "$deploy" deploy "$1" 2>>"$work/log" || code=$?
  is "the code of $2" "$code" 1
  is "what status says" "$("$deploy" status --json | jq -r '"\(.release) \(.slots[.active].health) \(.last_result.reason)"')" "$active 200 $2"
  is "what is left of it" "$(docker ps --all --format '{{.Names}}' | grep -cE '^(api|worker)-')" "$left"
  say "$2: $active goes on"
}
# A slot and a fleet serve; what the last deployment stopped goes with the next one's begin.
"$deploy" resume 2>>"$work/log" || wrong "resume ended with $?"
left=$(docker ps --all --format '{{.Names}}' | grep -cE '^(api|worker)-')
refused r9 pull_failed
# One whose health check never passes.
for name in api-gateway distance-worker; do
  printf 'FROM fieldtrack/%s:r2\nLABEL org.opencontainers.image.revision=r6\nHEALTHCHECK --interval=1s --retries=1 CMD ["/usr/local/bin/%s", "nonsense"]\n' "$name" "$name" |
    docker build --quiet --tag "fieldtrack/$name:r6" - >/dev/null
done
refused r6 health_timeout
owner() { docker exec postgres psql -qtAX -U postgres -d fieldtrack -c "$1" >/dev/null; }
# A step that was done already cannot be done again.
owner "DELETE FROM __diesel_schema_migrations WHERE version = '20261124000003'"
refused r2 migrate_failed
owner "INSERT INTO __diesel_schema_migrations (version) VALUES ('20261124000003')"
docker exec nginx bash -c 'cp /tmp/edge/current/nginx.conf /tmp/edge/good.conf && echo nonsense >>/tmp/edge/current/nginx.conf'
refused r2 preflight_nginx_config
docker exec nginx mv /tmp/edge/good.conf /tmp/edge/current/nginx.conf
stop_load
jq -c . "$work/load.killed"
is 'lost requests' "$(jq .failed "$work/load.killed")" 0
docker stop nginx >/dev/null
code=0
"$deploy" deploy r2 2>>"$work/log" || code=$?
is 'the code without an edge' "$code" 1
is 'its reason' "$("$deploy" status --json | jq -r .last_result.reason)" preflight_nginx
docker start nginx >/dev/null

say "## Two at once"
"$deploy" deploy r2 2>>"$work/log" &
first=$!
sleep 1
code=0
"$deploy" deploy r3 2>>"$work/log" || code=$?
is 'the second one' "$code" 75
wait "$first" || wrong "the first one ended with $?"

say "## What was accepted is there"
accepted=$(jq -s 'map(.accepted_points) | add' "$work/load.calm" "$work/load.killed")
stored=$(docker exec postgres psql -qtAX -U postgres -d fieldtrack -c "SELECT count(*) FROM gps_locations WHERE session_id = '$session'")
is 'points stored' "$stored" "$accepted"
for _ in $(seq 60); do
  dirty=$(docker exec postgres psql -qtAX -U postgres -d fieldtrack -c "SELECT count(*) FROM attendance_sessions WHERE dirty_from IS NOT NULL")
  [[ $dirty == 0 ]] && break
  sleep 1
done
is 'sessions that are not measured' "$dirty" 0
redis() { docker exec redis bash -c 'REDISCLI_AUTH=$(sed -n "s/^requirepass \"\(.*\)\"/\1/p" /tmp/redis.conf) redis-cli "$@"' _ "$@"; }
is 'jobs given up' "$(redis zcard bull:distance-engine:failed)" 0
is 'jobs still held' "$(redis llen bull:distance-engine:active)" 0
say "points accepted $accepted, stored $stored; sessions not measured $dirty"

say "## Figures"
"$deploy" deploy r3 2>>"$work/log" || true
for name in api-green api-blue worker-green-1 worker-blue-1; do
  [[ $(docker inspect --format '{{.State.Running}}' "$name" 2>/dev/null) == true ]] || continue
  started=$(date -d "$(docker inspect --format '{{.State.StartedAt}}' "$name")" +%s%3N)
  healthy=$(date -d "$(docker inspect --format '{{(index .State.Health.Log 0).End}}' "$name" | cut -d' ' -f1,2)" +%s%3N)
  say "$name: $(docker stats --no-stream --format '{{.MemUsage}}' "$name"), the engine's first health check ended $((healthy - started)) ms after its start"
done
# Without the engine's interval between two looks.
begun=$(date +%s%3N)
docker run --detach --rm --name drill-start --network api_network --env-file "$work/make" --publish 127.0.0.1:13999:3000 fieldtrack/api-gateway:r3 >/dev/null
until curl --silent --fail --max-time 1 --output /dev/null http://127.0.0.1:13999/health; do sleep 0.01; done
say "from docker run to the first /health: $(($(date +%s%3N) - begun)) ms"
docker rm --force drill-start >/dev/null
docker image inspect --format '{{index .RepoTags 0}} {{.Size}}' fieldtrack/api-gateway:r3 fieldtrack/distance-worker:r3

if ((failures)); then
  say "$failures things were wrong; the log follows"
  jq -r 'select(.level != "info") | "\(.ts) \(.phase) \(.msg) \(.reason // "")"' "$STATE_DIR/deploy.log" | tail -n 30
  exit 1
fi
say "nothing was lost"
