# shellcheck shell=bash
# The log, the files of STATE_DIR, and what they mean.

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

# note LEVEL MESSAGE [REASON]: one JSON line to standard error and to deploy.log.
note() {
  local line
  line=$(jq -nc --arg ts "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" --arg level "$1" --arg msg "$2" --arg id "$DEPLOY_ID" \
    --arg command "$COMMAND" --arg phase "$PHASE" --arg reason "${3:-}" --arg by "$DEPLOY_BY" \
    '{ts: $ts, level: $level, msg: $msg, service: "deploy", deploy_id: $id, command: $command, phase: $phase}
     + (if $reason == "" then {} else {reason: $reason} end) + {by: $by}') || line="{\"msg\":\"$1\"}"
  printf '%s\n' "$line" >&2
  [[ -d $STATE_DIR ]] || return 0
  if [[ $(stat -c %s "$STATE_DIR/deploy.log" 2>/dev/null || echo 0) -gt 10485760 ]]; then
    mv -f "$STATE_DIR/deploy.log" "$STATE_DIR/deploy.log.1"
  fi
  printf '%s\n' "$line" >>"$STATE_DIR/deploy.log" 2>/dev/null || true
}

# replace FILE: standard input becomes the file, whole or not at all.
replace() {
  local file=$1 temporary
  temporary=$(mktemp "$(dirname "$file")/.new.XXXXXX") || return 1
  if cat >"$temporary" && chmod "${2:-0644}" "$temporary" && sync "$temporary" && mv -f "$temporary" "$file"; then
    sync "$(dirname "$file")"
    return 0
  fi
  rm -f "$temporary"
  return 1
}

history_file() { printf '%s' "$STATE_DIR/deployments.jsonl"; }
lines() { cat "$(history_file)" 2>/dev/null || true; }
active_line() { lines | jq -c 'select(.active == true)' | head -n 1; }

active_slot() { if [[ -e $EDGE/green.active ]]; then echo green; else echo blue; fi; }
other() { if [[ $1 == green ]]; then echo blue; else echo green; fi; }
active_fleet() { if [[ $(cat "$STATE_DIR/worker-active" 2>/dev/null) == green ]]; then echo green; else echo blue; fi; }

# The one act that moves traffic.
point_at() {
  if [[ $1 == green ]]; then : >"$EDGE/green.active"; else rm -f "$EDGE/green.active"; fi || return 1
  [[ $(active_slot) == "$1" ]] || return 1
  sync "$EDGE" || true
}

maintenance_is_on() { [[ -e $EDGE/maintenance.on ]]; }
maintenance() {
  if [[ $1 == on ]]; then : >"$EDGE/maintenance.on"; else rm -f "$EDGE/maintenance.on"; fi
}

write_result() {
  local result=$1 reason=$2 active release
  [[ -d $STATE_DIR && -w $STATE_DIR ]] || return 0
  active=$(active_slot)
  release=$(active_line | jq -r '.api.release // ""')
  jq -nc --arg id "$DEPLOY_ID" --arg command "$COMMAND" --argjson result "$result" --arg phase "$PHASE" \
    --arg reason "$reason" --arg active "$active" --arg release "$release" --arg at "$STARTED_AT" \
    --argjson duration "$((SECONDS - STARTED_S))" \
    '{deploy_id: $id, command: $command, result: $result, phase: $phase, reason: $reason, active: $active,
      release: $release, started_at: $at, duration_s: $duration}' | replace "$STATE_DIR/last-result.json" || true
}

# For the node exporter's textfile collector.
write_metrics() {
  local result=$1 file=$STATE_DIR/metrics/fieldtrack_deploy.prom killed line active
  mkdir -p "$STATE_DIR/metrics" 2>/dev/null || return 0
  killed=$(sed -n 's/^deploy_drain_killed_total //p' "$file" 2>/dev/null)
  killed=$((${killed:-0} + DRAIN_KILLED))
  DRAIN_KILLED=0
  line=$(active_line)
  active=$(active_slot)
  {
    printf '# HELP deploy_last_result Exit code of the last command\n# TYPE deploy_last_result gauge\n'
    printf 'deploy_last_result{result="%s"} 1\n' "$result"
    printf '# HELP deploy_drain_killed_total Containers that did not stop in time\n# TYPE deploy_drain_killed_total counter\n'
    printf 'deploy_drain_killed_total %s\n' "$killed"
    printf '# HELP active_slot Which slot gets the traffic\n# TYPE active_slot gauge\n'
    printf 'active_slot{slot="%s"} 1\nactive_slot{slot="%s"} 0\n' "$active" "$(other "$active")"
    printf '# HELP deploy_running Whether a command runs\n# TYPE deploy_running gauge\ndeploy_running %s\n' "${2:-0}"
    if [[ -n $line ]]; then
      printf '# HELP deploy_last_timestamp_seconds When a release was put in service\n# TYPE deploy_last_timestamp_seconds gauge\n'
      jq -r --arg slot "$active" --arg fleet "$(active_fleet)" '(.at | fromdateiso8601) as $at
        | "deploy_last_timestamp_seconds{unit=\"api\",slot=\"\($slot)\",release=\"\(.api.release)\"} \($at)",
          "deploy_last_timestamp_seconds{unit=\"workers\",slot=\"\($fleet)\",release=\"\(.workers.release)\"} \($at)"' <<<"$line"
    fi
  } | replace "$file" || true
}

# record_line ID AT API_RELEASE API_DIGEST WORKERS_RELEASE WORKERS_DIGEST SCHEMA_HEAD CONFIG_HASH DURATION
# A line that is there already (a rollback) becomes the active one and everything newer is marked; a new one goes first.
record_line() {
  local file
  file=$(history_file)
  lines | jq -cs --arg id "$1" --arg at "$2" --arg ar "$3" --arg ad "$4" --arg wr "$5" --arg wd "$6" --arg head "$7" \
    --arg hash "$8" --argjson took "$9" --arg by "$DEPLOY_BY" '
      (map(.id) | index($id)) as $place
      | if $place != null then
          to_entries | map(.value + {active: (.key == $place)}
            + (if .key < $place then {rolled_back: true} elif .key == $place then {rolled_back: false} else {} end))
        else
          [{id: $id, at: $at, api: {release: $ar, digest: $ad}, workers: {release: $wr, digest: $wd}, schema_head: $head,
            config_hash: $hash, by: $by, duration_s: $took, active: true, rolled_back: false}]
          + map(. + {active: false})
        end
      | .[:5][]' | replace "$file" 0640
}
