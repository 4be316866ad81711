#!/usr/bin/env bash
# restore.sh - a database from backups, beside the live one and never over it.
#
#   restore.sh --to TIME --into DIR     the newest base backup before TIME, with changes up to TIME, as a PostgreSQL data
#                                       folder in DIR; TIME is RFC 3339, or `latest`
#   restore.sh --drill                  the same into a temporary folder, 10 minutes back or to the newest change; started,
#                                       compared with the manifest, measured, and removed
#
# DIR must not exist. PostgreSQL's programs must be here, of the version that made the backup (PG_BIN names their folder);
# in containers: docker run --rm -v … postgres:15-bookworm. docs/deployment.md tells how the result is put into service.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/backups.sh
. "$here/lib/backups.sh"
read_backup_settings "$here/.."

usage() {
  sed -n '2,12p' "${BASH_SOURCE[0]}" >&2
  exit 64
}
die() { say "$*"; exit 1; }

bin=${PG_BIN:-$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1)}
to='' into='' drill=''
while (($#)); do
  case $1 in
    --to) to=${2:-}; shift ;;
    --into) into=${2:-}; shift ;;
    --drill) drill=yes ;;
    *) usage ;;
  esac
  shift
done

# unseal FILE: its plain bytes, whether it was encrypted or not.
unseal() {
  if [[ -e $1.cms ]]; then
    [[ -n $BACKUP_IDENTITY ]] || die 'the backup is encrypted and BACKUP_IDENTITY is not set'
    openssl cms -decrypt -binary -inform DER -inkey "$BACKUP_IDENTITY" -in "$1.cms"
  else
    cat "$1"
  fi
}

# PostgreSQL refuses root.
as_postgres() { if [[ $(id -u) == 0 ]]; then runuser -u "${PG_USER:-postgres}" -- "$@"; else "$@"; fi; }

restore() {
  local time=$1 folder=$2 base target='' file name
  [[ ! -e $folder ]] || die "$folder exists"
  if [[ $time != latest ]]; then
    target=$(date -u -d "$time" +'%Y-%m-%d %H:%M:%S.%6N+00') || die "$time is no time"
    base=$(find "$BACKUP_DIR/base" -mindepth 1 -maxdepth 1 -type d | sort | awk -F/ -v to="$(date -u -d "$time" +%Y%m%dT%H%M%SZ)" '$NF <= to' | tail -n 1)
  else
    base=$(find "$BACKUP_DIR/base" -mindepth 1 -maxdepth 1 -type d | sort | tail -n 1)
  fi
  [[ -n $base ]] || die "no base backup is old enough"
  (cd "$base" && sha256sum --check --quiet SHA256SUMS) || die "$base is damaged"
  mkdir -p "$folder/wal"
  mkdir -m 0700 "$folder/data"
  unseal "$base/base.tar.gz" | tar -xz -C "$folder/data"
  for file in "$BACKUP_DIR"/wal/*; do
    [[ -f $file ]] || continue
    name=$(basename "$file" .cms)
    unseal "$BACKUP_DIR/wal/$name" >"$folder/wal/$name"
  done
  {
    # Where the original listened, archived and logged is none of the copy's business.
    printf "listen_addresses = ''\narchive_mode = off\nlogging_collector = off\nunix_socket_directories = '%s'\n" "$folder"
    printf "hba_file = '%s/pg_hba.conf'\nident_file = '%s/pg_ident.conf'\n" "$folder" "$folder"
    printf "restore_command = 'cp \"%s/wal/%%f\" \"%%p\"'\nrecovery_target_action = promote\n" "$folder"
    if [[ -n $target ]]; then printf "recovery_target_time = '%s'\n" "$target"; fi
  } >"$folder/data/postgresql.auto.conf"
  # Packages keep the main file elsewhere; a copy needs one of its own.
  [[ -e $folder/data/postgresql.conf ]] || : >"$folder/data/postgresql.conf"
  printf 'local all all trust\n' >"$folder/pg_hba.conf"
  : >"$folder/pg_ident.conf"
  touch "$folder/data/recovery.signal"
  if [[ $(id -u) == 0 ]]; then chown -R "${PG_USER:-postgres}" "$folder"; fi
  chmod 0755 "$folder"
  RESTORED_FROM=$base
}

start_copy() { as_postgres "$bin/pg_ctl" --pgdata "$1/data" --wait --timeout 600 --log "$1/log" start >/dev/null || { tail -n 20 "$1/log" >&2; die 'the copy does not start'; }; }
stop_copy() { as_postgres "$bin/pg_ctl" --pgdata "$1/data" --mode fast --wait stop >/dev/null 2>&1 || true; }
copy_sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --host "$1" --username "${BACKUP_SUPERUSER:-postgres}" --dbname "$database" --command "$2"; }

run_drill() {
  local folder begun=$SECONDS manifest head policies tables newest age seen
  folder=$(mktemp -d "${TMPDIR:-/tmp}/restore-drill.XXXXXX")
  chmod 0755 "$folder"
  # shellcheck disable=SC2064
  trap "stop_copy '$folder/copy'; rm -rf '$folder'" EXIT
  restore "${to:-latest}" "$folder/copy"
  start_copy "$folder/copy"
  until [[ $(copy_sql "$folder/copy" 'SELECT pg_is_in_recovery()') == f ]]; do sleep 0.2; done
  manifest=$(cat "$RESTORED_FROM/manifest.json")
  head=$(copy_sql "$folder/copy" 'SELECT max(version) FROM __diesel_schema_migrations')
  policies=$(copy_sql "$folder/copy" 'SELECT count(*) FROM pg_policies')
  tables=$(copy_sql "$folder/copy" "$counts")
  [[ ! $head < $(jq -r .head <<<"$manifest") ]] || die "the copy is at $head"
  [[ $policies -ge $(jq -r .policies <<<"$manifest") ]] || die "the copy has $policies policies"
  # Nothing that was there when the base backup was made is missing. Tables whose rows expire may hold fewer.
  jq -e --argjson now "$tables" '[.tables | to_entries[] | select(.key | test("^(organizations|users|employees|attendance_sessions|gps_locations|expenses)$")) | select(($now[.key] // -1) < .value)] == []' <<<"$manifest" >/dev/null ||
    die "rows are missing: $tables against $(jq -c .tables <<<"$manifest")"
  # Row-level security holds in the copy: without an organization its role sees nothing.
  seen=$(copy_sql "$folder/copy" 'SET ROLE fieldtrack_app; SELECT count(*) FROM employees') || die 'the copy has no role for tenants'
  [[ $seen == 0 ]] || die "the app's role sees $seen employees without an organization"
  newest=$(copy_sql "$folder/copy" 'SELECT extract(epoch FROM pg_last_committed_xact.timestamp)::bigint FROM pg_last_committed_xact()' 2>/dev/null || true)
  [[ $newest =~ ^[0-9]+$ ]] || newest=$(copy_sql "$folder/copy" 'SELECT extract(epoch FROM greatest((SELECT max(recorded_at) FROM gps_locations), (SELECT max(updated_at) FROM attendance_sessions)))::bigint')
  [[ $newest =~ ^[0-9]+$ ]] || die 'how old the newest data is cannot be told'
  age=$(($(date +%s) - newest))
  mkdir -p "$STATE_DIR/metrics"
  printf 'restore_drill_last_success_timestamp_seconds %s\nrestore_drill_duration_seconds %s\nrestore_drill_data_age_seconds %s\n' \
    "$(date +%s)" "$((SECONDS - begun))" "$age" >"$STATE_DIR/metrics/fieldtrack_restore.prom.new"
  mv "$STATE_DIR/metrics/fieldtrack_restore.prom.new" "$STATE_DIR/metrics/fieldtrack_restore.prom"
  jq -nc --argjson tables "$tables" --arg head "$head" --argjson rto "$((SECONDS - begun))" --argjson rpo "$age" --arg from "$RESTORED_FROM" \
    '{restored_from: $from, head: $head, rto_s: $rto, data_age_s: $rpo, tables: $tables}'
}

if [[ -n $drill ]]; then
  run_drill
else
  [[ -n $to && -n $into ]] || usage
  restore "$to" "$into"
  say "$into/data is ready; start it with: $bin/pg_ctl --pgdata $into/data start"
fi
