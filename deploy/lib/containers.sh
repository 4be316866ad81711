# shellcheck shell=bash
# What is asked of the engine, and of the programs in its containers.

# Every container of ours runs like this; compose.yaml says the same.
hardened=(--network api_network --user 10001:10001 --read-only --tmpfs '/tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777'
  --cap-drop ALL --security-opt no-new-privileges --pids-limit 256
  --log-driver json-file --log-opt max-size=10m --log-opt max-file=3)
limited() { hardened+=(--ulimit "nofile=$NOFILE:$NOFILE"); }

about() { docker inspect --type container --format "$2" "$1" 2>/dev/null; }
exists() { about "$1" '{{.Id}}' >/dev/null; }
runs() { [[ $(about "$1" '{{.State.Running}}') == true ]]; }
label() { about "$1" "{{index .Config.Labels \"$2\"}}"; }
fleet() { docker ps --all --filter "name=^worker-$1-[0-9]+\$" --format '{{.Names}}' | sort -V; }
fleet_runs() { [[ -n $(docker ps --filter "name=^worker-$1-[0-9]+\$" --format '{{.Names}}') ]]; }
discard() { docker rm --force --volumes "$1" >/dev/null 2>&1 || true; }
discard_fleet() { local one; for one in $(fleet "$1"); do discard "$one"; done; }

# once IMAGE ENV_FILE WORDS…: a one-off container; its output and its exit status.
once() {
  local image=$1 env=$2
  shift 2
  docker run --rm --name "fieldtrack-once-$DEPLOY_ID-$RANDOM" --label org.fieldtrack.once=1 "${hardened[@]}" \
    --memory 256m --memory-swap 256m --env-file "$env" "$image" "$@"
}

labels_of() {
  printf -- '--label\0release=%s\0--label\0slot=%s\0--label\0deploy_id=%s\0--label\0digest=%s\0--label\0schema_head=%s\0' \
    "$1" "$2" "$DEPLOY_ID_OF_LINE" "$3" "$4"
}

# start_slot SLOT RELEASE IMAGE SCHEMA_HEAD. The key that may change every user of another identity provider is the
# workers': the public gateway has no use for it.
start_slot() {
  local slot=$1 labels=()
  mapfile -d '' -t labels < <(labels_of "$2" "$slot" "$3" "$4")
  docker run --detach --name "api-$slot" "${labels[@]}" "${hardened[@]}" --ip "${ADDRESS_OF[$slot]}" \
    --publish "127.0.0.1:${PORT_OF[$slot]}:${PORT_OF[$slot]}" --volume fieldtrack_receipts:/data --restart unless-stopped --stop-timeout "$GRACE_S" \
    --memory "$API_MEMORY" --memory-swap "$API_MEMORY" --cpus "$API_CPUS" --env-file "$SERVICE_ENV" \
    --env SUPABASE_SERVICE_ROLE_KEY= --env SUPABASE_SERVICE_ROLE_KEY_FILE= \
    --env "PORT=${PORT_OF[$slot]}" --env "SLOT=$slot" --env "GITHUB_SHA=$2" "$3" >/dev/null
}

# start_worker SLOT NUMBER RELEASE IMAGE SCHEMA_HEAD
start_worker() {
  local labels=()
  mapfile -d '' -t labels < <(labels_of "$3" "$1" "$4" "$5")
  docker run --detach --name "worker-$1-$2" --network-alias "workers-$1" "${labels[@]}" "${hardened[@]}" --restart unless-stopped \
    --stop-timeout "$GRACE_S" --memory "$WORKER_MEMORY" --memory-swap "$WORKER_MEMORY" --cpus "$WORKER_CPUS" \
    --env-file "$SERVICE_ENV" --env WORKER_PORT=3010 --env "SLOT=$1" --env "GITHUB_SHA=$3" "$4" >/dev/null
}

# probe URL [CURL WORDS…]: STATUS (0 without an answer), HEADERS in lower case, BODY.
probe() {
  local answer url=$1
  shift
  STATUS=0 HEADERS='' BODY=''
  answer=$(curl --silent --show-error --include --max-time 3 --http1.1 "$@" "$url" 2>/dev/null) || return 1
  answer=${answer//$'\r'/}
  [[ $answer =~ ^HTTP/[0-9.]+\ ([0-9]{3}) ]] || return 1
  STATUS=${BASH_REMATCH[1]}
  HEADERS=${answer%%$'\n\n'*}
  [[ $answer == *$'\n\n'* ]] && BODY=${answer#*$'\n\n'}
  return 0
}
header() { sed -n "s/^$1: //Ip" <<<"$HEADERS" | head -n 1; }

slot_url() { printf 'http://127.0.0.1:%s' "${PORT_OF[$1]}"; }
worker_url() { printf 'http://%s:3010' "$(about "$1" "{{(index .NetworkSettings.Networks \"$NETWORK\").IPAddress}}")"; }
is_ready() { probe "$1/ready" && [[ $STATUS == 200 ]]; }

# A pause that a signal ends at once.
nap() { sleep "$1" & wait $! 2>/dev/null || true; }

# keep_logs CONTAINER: its last lines go to the log before it is removed.
keep_logs() {
  local line
  while IFS= read -r line; do note info "$1: $line"; done < <(docker logs --tail 100 "$1" 2>&1 | tail -n 100)
}

# slot_is_healthy SLOT RELEASE: 0 when it is, within HEALTH_TIMEOUT_S; else WHY says why not.
slot_is_healthy() {
  local slot=$1 release=$2 good=0 seen='' deadline=$((SECONDS + HEALTH_TIMEOUT_S)) state
  WHY=health_timeout
  while ((SECONDS < deadline)); do
    [[ -n $INTERRUPTED && -z $SWITCHED ]] && { WHY=interrupted; return 1; }
    state=$(about "api-$slot" '{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}} {{if .State.Health}}{{.State.Health.Status}}{{end}}')
    if [[ $state != running\ 0\ * ]]; then
      WHY=crashed
      note error "api-$slot ended: $state"
      return 1
    fi
    if probe "$(slot_url "$slot")/health" && [[ $STATUS == 200 ]]; then
      seen=$(header x-release)
      if [[ $seen != "$release" ]]; then
        WHY=wrong_release
        note error "api-$slot says it is $seen"
        return 1
      fi
      good=$((good + 1))
    else
      good=0
    fi
    ((good >= 3)) && [[ $state == *\ healthy ]] && return 0
    # The engine looks every 5 s, and a rollback is in a hurry: it has the container's own check run at once.
    ((good >= 3)) && [[ $COMMAND == rollback* && $state == *\ starting ]] &&
      docker exec "api-$slot" /usr/local/bin/api-gateway healthcheck >/dev/null 2>&1 && return 0
    nap "$TICK_S"
  done
  return 1
}
