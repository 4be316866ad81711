# shellcheck shell=bash
# The phases of a deployment, in the order of the table in the operations contract.

enter() {
  [[ -n $INTERRUPTED && -z $SWITCHED ]] && fail 1 interrupted "stopped before $1"
  PHASE=$1
  PHASE_S=$SECONDS
}
leave() { note info "${1:-done} ($((SECONDS - PHASE_S)) s)"; }

# What has to go when a deployment fails: only what this command has started.
clean_up() {
  if [[ -n $NEW_SLOT ]]; then
    exists "api-$NEW_SLOT" && keep_logs "api-$NEW_SLOT"
    discard "api-$NEW_SLOT"
  fi
  if [[ -n $NEW_FLEET ]]; then
    local one
    for one in $(fleet "$NEW_FLEET"); do keep_logs "$one"; done
    discard_fleet "$NEW_FLEET"
  fi
  NEW_SLOT='' NEW_FLEET=''
}

# fail EXIT REASON MESSAGE: the end, with everything as the table promises.
fail() {
  local code=$1 reason=$2
  [[ -n $INTERRUPTED && $code == 1 ]] && reason=interrupted
  note error "$3" "$reason"
  if [[ $code == 1 || $code == 2 ]]; then clean_up; fi
  [[ -n $FIRST && $PHASE != LOCK && $PHASE != PREFLIGHT ]] && maintenance on
  finish "$code" "$reason"
}

finish() {
  [[ -n $LOCKED ]] && write_metrics "$1"
  write_result "$1" "${2:-}"
  exit "$1"
}

lock() {
  enter LOCK
  exec {LOCK_FD}>>"$STATE_DIR/deploy.lock" || fail 1 preflight_state_dir "$STATE_DIR cannot be written"
  if ! flock --nonblock "$LOCK_FD"; then
    fail 75 locked "another command holds the lock: $(tr '\n' ' ' <"$STATE_DIR/deploy.lock")"
  fi
  LOCKED=yes
  printf 'pid %s, %s, since %s\n' "$$" "$COMMAND" "$STARTED_AT" >"$STATE_DIR/deploy.lock"
  write_metrics "${LAST_RESULT:-0}" 1
}

# Files with what the services and the owner's one-off containers may see; gone at the end of the command.
prepare_env() {
  [[ -z $SERVICE_ENV ]] || return 0
  [[ -r $ENV_FILE ]] || return 1
  rm -f "$STATE_DIR"/.env.??????
  SERVICE_ENV=$(mktemp "$STATE_DIR/.env.XXXXXX") && OWNER_ENV=$(mktemp "$STATE_DIR/.env.XXXXXX") || return 1
  write_service_env "$SERVICE_ENV" && write_owner_env "$OWNER_ENV"
}

# Is anything of ours there at all?
find_first() {
  FIRST=''
  if ! exists api-blue && ! exists api-green && [[ -z $(lines) ]]; then FIRST=yes; fi
}

# revive SLOT: makes it serve, from its container or from what the history says of it.
revive() {
  local slot=$1 release image
  if ! runs "api-$slot"; then
    if exists "api-$slot"; then
      docker start "api-$slot" >/dev/null || discard "api-$slot"
    fi
    if ! exists "api-$slot"; then
      release=$(active_line | jq -r '.api.release // ""')
      image=$(active_line | jq -r '.api.digest // ""')
      [[ -n $image ]] || return 1
      docker image inspect "$image" >/dev/null 2>&1 || return 1
      DEPLOY_ID_OF_LINE=$(active_line | jq -r .id)
      prepare_env || return 1
      start_slot "$slot" "$release" "$image" "$(active_line | jq -r .schema_head)" || return 1
    fi
    note warn "api-$slot was not running and has been started"
  fi
  local deadline=$((SECONDS + HEALTH_TIMEOUT_S))
  while ((SECONDS < deadline)); do
    probe "$(slot_url "$slot")/health" && [[ $STATUS == 200 ]] && return 0
    runs "api-$slot" || return 1
    nap "$TICK_S"
  done
  return 1
}

# Ends what an interrupted command has begun; never undoes a switch.
recover() {
  enter RECOVER
  local active idle right wrong one id
  for one in $(docker ps --all --quiet --filter label=org.fieldtrack.once=1); do discard "$one"; done
  find_first
  active=$(active_slot)
  idle=$(other "$active")
  if [[ -n $FIRST ]]; then
    ONE_SLOT=blue
    discard_fleet blue
    discard_fleet green
    leave "nothing was deployed yet"
    return
  fi
  # A first deployment that ended before its switch leaves a slot that never served and no history.
  if ! revive "$active"; then
    if revive "$idle" && point_at "$idle"; then
      note warn "api-$active could not be made healthy: api-$idle serves"
      idle=$active
      active=$(other "$idle")
    elif [[ -z $(lines) ]]; then
      discard api-blue
      discard api-green
      discard_fleet blue
      discard_fleet green
      FIRST=yes ONE_SLOT=blue
      leave "a first deployment did not come far: starting over"
      return
    else
      maintenance on
      fail 3 active_slot_dead "no slot can be made healthy"
    fi
  fi
  if runs "api-$idle"; then docker stop --time "$GRACE_S" "api-$idle" >/dev/null 2>&1 || true; fi
  discard "api-$idle"

  # The fleet: that of the active slot's deployment, else the one that should run, else whichever runs.
  id=$(label "api-$active" deploy_id)
  right=$(active_fleet)
  wrong=$(other "$right")
  if [[ $(label "worker-$wrong-1" deploy_id) == "$id" && $(label "worker-$right-1" deploy_id) != "$id" ]] && fleet_runs "$wrong" &&
    ! known_line "$id"; then
    right=$wrong
  elif ! fleet_runs "$right" && fleet_runs "$wrong"; then
    right=$wrong
  fi
  wrong=$(other "$right")
  [[ -e $STATE_DIR/worker-active || -n $(fleet "$right") ]] && printf '%s\n' "$right" | replace "$STATE_DIR/worker-active"
  stop_fleet "$wrong"
  discard_fleet "$wrong"
  for one in $(fleet "$right"); do
    runs "$one" || { docker start "$one" >/dev/null 2>&1 && note warn "$one was not running and has been started"; } || true
  done
  if [[ -z $(fleet "$right") && -n $(active_line) ]]; then
    DEPLOY_ID_OF_LINE=$(active_line | jq -r .id)
    local image
    image=$(active_line | jq -r .workers.digest)
    if [[ -n $image ]] && prepare_env && docker image inspect "$image" >/dev/null 2>&1; then
      for ((one = 1; one <= WORKER_REPLICAS; one++)); do
        start_worker "$right" "$one" "$(active_line | jq -r .workers.release)" "$image" "$(active_line | jq -r .schema_head)" || true
      done
      note warn "the $right fleet was gone and has been started"
    fi
  fi
  agree "$active" "$right"
  finish_rollback "$right"
  # What was made good belongs to lines of before; what this command goes on to do gets a line of its own.
  DEPLOY_ID_OF_LINE=$DEPLOY_ID
  API_SCHEMA_HEAD='' WORKERS_RELEASE='' WORKERS_IMAGE=''
  NEW_FLEET='' SWITCHED=''
  PHASE=RECOVER
  leave
}

# finish_rollback FLEET: an API that went back and was cut off from its workers gets them.
finish_rollback() {
  local line
  line=$(active_line)
  [[ -n $line && -n $(fleet "$1") ]] || return 0
  [[ $(jq -r .workers.digest <<<"$line") != "$(label "worker-$1-1" digest)" ]] || return 0
  WORKERS_IMAGE=$(jq -r .workers.digest <<<"$line")
  docker image inspect "$WORKERS_IMAGE" >/dev/null 2>&1 || { WORKERS_IMAGE=''; return 0; }
  WORKERS_RELEASE=$(jq -r .workers.release <<<"$line")
  API_SCHEMA_HEAD=$(jq -r .schema_head <<<"$line")
  DEPLOY_ID_OF_LINE=$(jq -r .id <<<"$line")
  note warn "the workers were not rolled back yet"
  SWITCHED=yes
  workers
  printf '%s\n' "$NEW_FLEET" | replace "$STATE_DIR/worker-active" || true
  stop_fleet "$1"
  discard_fleet "$1"
}

known_line() { lines | jq -se --arg id "$1" 'any(.id == $id)' >/dev/null; }

# agree SLOT FLEET: the history says what runs.
agree() {
  local slot=$1 fleet=$2 id
  id=$(label "api-$slot" deploy_id)
  [[ -n $id ]] || return 0
  local line
  line=$(active_line)
  if [[ $(jq -r '.api.digest // ""' <<<"$line") == "$(label "api-$slot" digest)" &&
    ($(jq -r '.workers.digest // ""' <<<"$line") == "$(label "worker-$fleet-1" digest)" || -z $(fleet "$fleet")) ]]; then
    return 0
  fi
  # A deployment of workers alone leaves the API its older id.
  local newest
  newest=$(label "worker-$fleet-1" deploy_id)
  if known_line "$id" && [[ -n $newest ]] && ! known_line "$newest"; then id=$newest; fi
  probe "$(slot_url "$slot")/health" || true
  note warn "the history was behind and has been completed"
  record_line "$id" "$(now)" "$(label "api-$slot" release)" "$(label "api-$slot" digest)" \
    "$(label "worker-$fleet-1" release)" "$(label "worker-$fleet-1" digest)" "$(label "api-$slot" schema_head)" \
    "$(jq -r '.config_hash // ""' <<<"$BODY" 2>/dev/null)" 0 || note warn "the history could not be written" record_failed
}

stop_fleet() {
  local names
  mapfile -t names < <(docker ps --filter "name=^worker-$1-[0-9]+\$" --format '{{.Names}}')
  ((${#names[@]})) || return 0
  docker stop --time "$GRACE_S" "${names[@]}" >/dev/null 2>&1 || true
}

preflight() {
  enter PREFLIGHT
  local value available percent needed name ports problem host
  docker version --format '{{.Server.Version}}' >/dev/null 2>&1 || fail 1 preflight_engine "the engine does not answer"
  if ((${#SETTINGS_PROBLEMS[@]})); then fail 1 preflight_settings "$(printf '%s; ' "${SETTINGS_PROBLEMS[@]}")"; fi
  [[ -r $ENV_FILE ]] || fail 1 preflight_env_file "$ENV_FILE cannot be read"
  [[ $(stat -c %a "$ENV_FILE") == 600 ]] || fail 1 preflight_env_mode "$ENV_FILE must have mode 0600"
  host=${API_BASE_URL#*://}
  host=${host%%[:/]*}
  [[ $host == "$API_HOSTNAME" ]] || fail 1 preflight_hostname "API_HOSTNAME is not the host of API_BASE_URL"
  [[ $(stat -c %a "$EDGE" 2>/dev/null) == 755 ]] || fail 1 preflight_state_dir "$EDGE must be there with mode 0755"
  value=$(docker network inspect --format '{{range .IPAM.Config}}{{.Subnet}}{{end}}' "$NETWORK" 2>/dev/null) ||
    fail 1 preflight_network "there is no network $NETWORK"
  [[ $value == "$API_SUBNET" ]] || fail 1 preflight_subnet "$NETWORK is $value, API_SUBNET says $API_SUBNET"
  runs nginx || fail 1 preflight_nginx "nginx does not run"
  value=$(about nginx "{{(index .NetworkSettings.Networks \"$NETWORK\").IPAddress}}")
  [[ $value == "${ADDRESS_OF[nginx]}" ]] || fail 1 preflight_nginx "nginx is not at ${ADDRESS_OF[nginx]} of $NETWORK"
  problem=$(docker exec nginx /edge/edge.sh check 2>&1) || fail 1 preflight_nginx_config "nginx -t: $problem"
  # Containers share the disk of the engine.
  value=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
  for name in "$STATE_DIR" "$value"; do
    [[ -d $name ]] || continue
    read -r available percent < <(df --output=avail,pcent --block-size=1M "$name" | tail -n 1 | tr -d %)
    ((available >= 2048 && percent <= DISK_USED_MAX)) || fail 1 preflight_disk "$available MB are free on $name, $percent % are used"
  done
  needed=0
  [[ $ONLY == workers ]] || needed=$(megabytes "$API_MEMORY")
  [[ $ONLY == api ]] || needed=$((needed + WORKER_REPLICAS * $(megabytes "$WORKER_MEMORY")))
  available=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' "${PROC_MEMINFO:-/proc/meminfo}") / 1024))
  ((available >= needed)) || fail 1 preflight_memory "$available MB are available, $needed are needed"
  while IFS=$'\t' read -r name ports; do
    [[ $name == nginx ]] && continue
    if grep -qE '(^|, )(0\.0\.0\.0|\[?::\]?|[0-9.]+):[0-9-]+->' <<<"${ports//127.0.0.1:/loopback }"; then
      fail 1 preflight_port_leak "$name publishes $ports"
    fi
  done < <(docker ps --filter "network=$NETWORK" --format '{{.Names}}\t{{.Ports}}')
  if maintenance_is_on && [[ -z $FORCE && -z $FIRST ]]; then
    fail 1 preflight_maintenance "maintenance is on: switch it off, or use --force"
  fi
  prepare_env || fail 1 preflight_state_dir "$STATE_DIR cannot be written"
  leave
}

# fetch NAME RELEASE DIGEST: IMAGE becomes what to run, pinned.
fetch() {
  local name=$1 release=$2 wanted=$3 reference=$IMAGE_REPO/$1:$2 try digest
  if [[ -n $wanted ]]; then
    reference=$wanted
    [[ $wanted == sha256:* ]] && reference=${wanted#sha256:}
  fi
  if [[ $PULL_POLICY == always && -z $wanted ]] || ! docker image inspect "$reference" >/dev/null 2>&1; then
    [[ $PULL_POLICY != never ]] || fail 1 pull_failed "$reference is not here, and PULL_POLICY is never"
    for try in 1 2 3; do
      docker pull --quiet "$reference" >/dev/null 2>&1 && break
      [[ -n $INTERRUPTED ]] && fail 1 interrupted "stopped while pulling"
      ((try < 3)) || fail 1 pull_failed "$reference cannot be pulled"
      nap "$TICK_S"
    done
  fi
  digest=$(docker image inspect --format '{{range .RepoDigests}}{{.}}{{"\n"}}{{end}}' "$reference" | grep -F "$IMAGE_REPO/$name@" | head -n 1 || true)
  IMAGE=${digest:-$(docker image inspect --format '{{.Id}}' "$reference")}
  if [[ -n $wanted && $IMAGE != "$wanted" ]]; then fail 1 digest_mismatch "$reference is $IMAGE"; fi
  if [[ -z $wanted ]]; then
    local unit=api before
    [[ $name == distance-worker ]] && unit=workers
    before=$(lines | jq -r --arg unit "$unit" --arg release "$release" 'select(.[$unit].release == $release) | .[$unit].digest' | head -n 1)
    if [[ -n $before && $before != "$IMAGE" && -z $FORCE ]]; then
      fail 1 digest_mismatch "$release was $before when it was deployed before, and is $IMAGE now"
    fi
  fi
  local revision head min
  revision=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$IMAGE")
  head=$(docker image inspect --format '{{index .Config.Labels "org.fieldtrack.schema-head"}}' "$IMAGE")
  min=$(docker image inspect --format '{{index .Config.Labels "org.fieldtrack.schema-min"}}' "$IMAGE")
  [[ $revision == "$release" && -n $head && -n $min && $head != '<no value>' && $min != '<no value>' ]] ||
    fail 1 label_missing "$name: revision \"$revision\", schema-head \"$head\", schema-min \"$min\""
  SCHEMA_HEAD=$head SCHEMA_MIN=$min
}

pull() {
  enter PULL
  fetch api-gateway "$API_RELEASE" "$API_DIGEST"
  API_IMAGE=$IMAGE
  API_SCHEMA_HEAD=$SCHEMA_HEAD API_SCHEMA_MIN=$SCHEMA_MIN
  if [[ $ONLY != api ]]; then
    fetch distance-worker "$WORKERS_RELEASE" "$WORKERS_DIGEST"
    WORKERS_IMAGE=$IMAGE
  fi
  leave
}

check() {
  enter CHECK
  local said image floor database_time
  for image in "$API_IMAGE" "$WORKERS_IMAGE"; do
    [[ -n $image ]] || continue
    said=$(once "$image" "$SERVICE_ENV" check-config 2>&1) || fail 1 bad_config "$said"
  done
  if ! SCHEMA=$(once "$API_IMAGE" "$OWNER_ENV" schema 2>/dev/null); then
    # A rollback is what helps in an outage; it must not need the database.
    [[ $COMMAND == rollback* ]] || fail 1 preflight_database "the database does not answer as the owner's role"
    note warn "the database does not answer: its schema is not looked at"
    leave
    return
  fi
  floor=$(jq -r '.floor // ""' <<<"$SCHEMA")
  [[ -z $floor || ! $floor > $API_SCHEMA_HEAD ]] ||
    fail 1 schema_too_new "the database needs a release that knows $floor; this one knows $API_SCHEMA_HEAD"
  database_time=$(date -d "$(jq -r .database_time <<<"$SCHEMA")" +%s 2>/dev/null) || database_time=$(date +%s)
  local apart=$(($(date +%s) - database_time))
  ((apart <= 2 && apart >= -2)) || fail 1 preflight_clock "the clock is $apart s away from the database's"
  leave
}

migrate() {
  enter MIGRATE
  local said applied
  if ! said=$(once "$API_IMAGE" "$OWNER_ENV" migrate 2>&1); then fail 1 migrate_failed "$said"; fi
  note info "$said"
  SCHEMA=$(once "$API_IMAGE" "$OWNER_ENV" schema 2>/dev/null) || fail 1 migrate_failed "the database went away"
  applied=$(jq -r '.applied // ""' <<<"$SCHEMA")
  [[ ! $applied < $API_SCHEMA_MIN ]] || fail 1 migrate_failed "the database is at $applied; $API_SCHEMA_MIN is needed"
  leave
}

workers() {
  enter WORKERS
  prepare_env || workers_failed "$STATE_DIR cannot be written"
  local old number one deadline url before=no
  old=$(active_fleet)
  NEW_FLEET=$(other "$old")
  [[ -n $FIRST ]] && NEW_FLEET=blue
  discard_fleet "$NEW_FLEET"
  for ((number = 1; number <= WORKER_REPLICAS; number++)); do
    start_worker "$NEW_FLEET" "$number" "$WORKERS_RELEASE" "$WORKERS_IMAGE" "$API_SCHEMA_HEAD" ||
      workers_failed "worker-$NEW_FLEET-$number cannot be started"
  done
  deadline=$((SECONDS + HEALTH_TIMEOUT_S))
  for one in $(fleet "$NEW_FLEET"); do
    url=
    until [[ -n $url ]] && probe "$url/health" && [[ $STATUS == 200 ]]; do
      [[ -n $INTERRUPTED && -z $SWITCHED ]] && fail 1 interrupted "stopped while workers start"
      [[ $(about "$one" '{{.State.Status}} {{.RestartCount}}') == 'running 0' ]] || workers_failed "$one ended with $(about "$one" '{{.State.ExitCode}}')"
      ((SECONDS < deadline)) || workers_failed "$one is not healthy after $HEALTH_TIMEOUT_S s"
      nap "$TICK_S"
      url=$(worker_url "$one")
    done
  done
  # Not ready is bad news only when the old fleet is.
  for one in $(fleet "$old"); do
    [[ $old == "$NEW_FLEET" ]] || { runs "$one" && is_ready "$(worker_url "$one")" && before=yes; }
  done
  for one in $(fleet "$NEW_FLEET"); do
    until is_ready "$(worker_url "$one")"; do
      [[ $before == no && -z $FIRST ]] && break
      ((SECONDS < deadline)) || workers_failed "$one is not ready"
      nap "$TICK_S"
    done
  done
  leave
}

workers_failed() {
  if [[ -n $SWITCHED ]]; then
    note error "$1" workers_unhealthy
    NEW_SLOT=''
    clean_up
    finish 3 workers_unhealthy
  fi
  fail 1 workers_unhealthy "$1"
}

start() {
  enter START
  ACTIVE=$(active_slot)
  NEW_SLOT=${ONE_SLOT:-$(other "$ACTIVE")}
  discard "api-$NEW_SLOT"
  start_slot "$NEW_SLOT" "$API_RELEASE" "$API_IMAGE" "$API_SCHEMA_HEAD" || fail 1 start_failed "api-$NEW_SLOT cannot be started"
  leave
}

health() {
  enter HEALTH
  slot_is_healthy "$NEW_SLOT" "$API_RELEASE" || fail 1 "$WHY" "api-$NEW_SLOT did not become healthy"
  CONFIG_HASH=$(jq -r '.config_hash // ""' <<<"$BODY" 2>/dev/null)
  local deadline=$((SECONDS + (HEALTH_TIMEOUT_S < 10 ? HEALTH_TIMEOUT_S : 10)))
  until is_ready "$(slot_url "$NEW_SLOT")"; do
    if [[ -z $FIRST ]] && ! is_ready "$(slot_url "$ACTIVE")"; then
      note warn "neither slot is ready: a dependency is away"
      break
    fi
    [[ -n $INTERRUPTED ]] && fail 1 interrupted "stopped while the slot becomes ready"
    ((SECONDS < deadline)) || fail 1 not_ready "api-$NEW_SLOT is not ready: $BODY"
    nap "$TICK_S"
  done
  leave
}

switch() {
  enter SWITCH
  point_at "$NEW_SLOT" || fail 1 switch_failed "$EDGE cannot be written"
  SWITCHED=yes
  SWITCHED_S=$SECONDS
  if [[ -n $FIRST ]]; then maintenance off; fi
  note info "traffic goes to $NEW_SLOT, $((SECONDS - STARTED_S)) s after the start"
  leave
}

through_the_edge() {
  local insecure=()
  [[ $APP_ENV == production ]] || insecure=(--insecure)
  probe "https://$API_HOSTNAME:$HTTPS_PORT$1" --resolve "$API_HOSTNAME:$HTTPS_PORT:127.0.0.1" \
    ${insecure[@]+"${insecure[@]}"} "${@:2}"
}

verify() {
  enter VERIFY
  local good=0 deadline=$((SECONDS + VERIFY_S)) why='no answer'
  while ((good < 10)); do
    ((SECONDS < deadline)) || back verify_failed "not 10 answers in a row from $NEW_SLOT: $why"
    if maintenance_is_on; then
      # The edge answers for itself; the slot is asked behind its back.
      probe "$(slot_url "$NEW_SLOT")/health" || true
      HEADERS+=$'\n'"x-slot: $NEW_SLOT"
    else
      through_the_edge /health || true
    fi
    if [[ $STATUS == 200 && $(header x-slot) == "$NEW_SLOT" && $(header x-release) == "$API_RELEASE" ]]; then
      good=$((good + 1))
    elif [[ $STATUS == 429 ]]; then
      nap 1
    else
      good=0
      why="$STATUS, slot $(header x-slot), release $(header x-release)"
    fi
    nap "$VERIFY_PAUSE_S"
  done
  if [[ -n $SMOKE_TOKEN ]] && ! maintenance_is_on; then
    through_the_edge /auth/me --config - <<<"header = \"Authorization: Bearer $SMOKE_TOKEN\"" || true
    [[ $STATUS == 200 ]] || back verify_failed "the smoke request answered $STATUS"
  fi
  leave
}

# requests: of the new slot so far, all and those with 5xx.
requests() {
  # The token stands in no argument list.
  probe "$(slot_url "$NEW_SLOT")/metrics" --config - <<<"${METRICS_SCRAPE_TOKEN:+header = \"Authorization: Bearer $METRICS_SCRAPE_TOKEN\"}" &&
    [[ $STATUS == 200 ]] || return 1
  awk '/^http_requests_total\{/ { split($0, part, "} "); all += part[2]; if ($0 ~ /status_code="5/) bad += part[2] }
    END { printf "%d %d\n", all, bad }' <<<"$BODY"
}

watch() {
  enter WATCH
  local until=$((SECONDS + WATCH_S)) all=0 bad=0 missed=0 state answered
  while ((SECONDS < until)) && [[ -z $INTERRUPTED ]]; do
    state=$(about "api-$NEW_SLOT" '{{.State.Status}} {{.RestartCount}}')
    [[ $state == 'running 0' ]] || back regression "api-$NEW_SLOT: $state"
    if probe "$(slot_url "$NEW_SLOT")/health" && [[ $STATUS == 200 ]]; then missed=0; else missed=$((missed + 1)); fi
    ((missed < 2)) || back regression "api-$NEW_SLOT stopped answering /health"
    if answered=$(requests); then
      read -r all bad <<<"$answered"
      if ((all >= 50 && bad * 50 > all)); then back regression "$bad of $all requests failed"; fi
    fi
    nap 1
  done
  leave "$all requests, $bad failed"
}

# back REASON MESSAGE: the old slot gets the traffic again.
back() {
  note error "$2" "$1"
  local old
  old=$(other "$NEW_SLOT")
  if [[ -n $FIRST ]]; then
    maintenance on
    clean_up
    finish 2 "$1"
  fi
  if probe "$(slot_url "$old")/health" && [[ $STATUS == 200 ]] && point_at "$old"; then
    :
  elif revive "$old" && point_at "$old"; then
    note warn "api-$old had died and was started again"
  else
    maintenance on
    note error "api-$old could not be put back" rollback_failed
    finish 3 rollback_failed
  fi
  # Requests that are under way end on the slot that took them.
  nap "$AFTER_SWITCH_S"
  docker stop --time "$GRACE_S" "api-$NEW_SLOT" >/dev/null 2>&1 || true
  clean_up
  note warn "traffic goes to $old again"
  finish 2 "$1"
}

# ended NAME: what a stopped container ended with; one that had to be killed is counted.
ended() {
  local code
  code=$(about "$1" '{{.State.ExitCode}}')
  [[ $code == 0 ]] && return
  note warn "$1 ended with $code" drain_killed
  if [[ $code == 137 ]]; then DRAIN_KILLED=$((DRAIN_KILLED + 1)); fi
}

drain() {
  enter DRAIN
  local old one
  if [[ $ONLY != workers && -n $NEW_SLOT && -z $FIRST ]]; then
    old=$(other "$NEW_SLOT")
    if exists "api-$old"; then
      while ((SECONDS - SWITCHED_S < AFTER_SWITCH_S)); do nap 0.2; done
      docker stop --time "$GRACE_S" "api-$old" >/dev/null 2>&1 || true
      ended "api-$old"
    fi
  fi
  if [[ -n $NEW_FLEET ]]; then
    printf '%s\n' "$NEW_FLEET" | replace "$STATE_DIR/worker-active" || note warn "worker-active could not be written" record_failed
    old=$(other "$NEW_FLEET")
    stop_fleet "$old"
    for one in $(fleet "$old"); do ended "$one"; done
  fi
  leave
}

record() {
  enter RECORD
  local line slot workers_release=$WORKERS_RELEASE workers_digest=$WORKERS_IMAGE
  line=$(active_line)
  slot=$(active_slot)
  if [[ -z $CONFIG_HASH ]]; then
    probe "$(slot_url "$slot")/health" && CONFIG_HASH=$(jq -r '.config_hash // ""' <<<"$BODY" 2>/dev/null)
  fi
  # --only api repeats the workers of the line before, --only workers leaves the API that runs.
  if [[ $ONLY == api ]]; then
    workers_release=$(jq -r '.workers.release // ""' <<<"$line")
    workers_digest=$(jq -r '.workers.digest // ""' <<<"$line")
  fi
  record_line "$DEPLOY_ID_OF_LINE" "$(now)" "$(label "api-$slot" release)" "$(label "api-$slot" digest)" \
    "$workers_release" "$workers_digest" "$API_SCHEMA_HEAD" "$CONFIG_HASH" "$((SECONDS - STARTED_S))" ||
    note warn "the history could not be written" record_failed
  leave
}

# Images that nothing needs any more. Where nothing can be pulled, everything is kept.
clean() {
  enter CLEAN
  local id used name kept
  if [[ $PULL_POLICY == never ]]; then
    leave "kept every image: none could be fetched again"
    return
  fi
  kept=$(lines | jq -r '.api.digest, .workers.digest')
  used=$(docker ps --all --quiet | while read -r id; do about "$id" '{{.Image}}'; done)
  for name in api-gateway distance-worker; do
    for id in $(docker image ls --no-trunc --quiet "$IMAGE_REPO/$name" | sort -u); do
      grep -qF "$id" <<<"$used" && continue
      local wanted='' digest
      for digest in $id $(docker image inspect --format '{{range .RepoDigests}}{{.}} {{end}}' "$id"); do
        grep -qxF "$digest" <<<"$kept" && wanted=yes
      done
      [[ -n $wanted ]] && continue
      docker image rm --force "$id" >/dev/null 2>&1 || note warn "an image could not be removed"
    done
  done
  leave
}
