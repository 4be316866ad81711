#!/usr/bin/env bash
# Backups of a real PostgreSQL with the real schema: an accident, a restore to the moment before it, figures compared.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
work=$(mktemp -d "${TMPDIR:-/tmp}/backup-test.XXXXXX")
chmod 755 "$work"
mkdir "$work/archive" "$work/run" "$work/state"
if [[ $(id -u) == 0 ]]; then
  chown postgres "$work/archive" "$work/run"
  as() { runuser -u postgres -- "$@"; }
else
  as() { "$@"; }
fi
# shellcheck disable=SC2317
cleanup() {
  as "$bin/pg_ctl" --pgdata "$work/run/data" --mode immediate stop >/dev/null 2>&1 || true
  for copy in copy latest; do as "$bin/pg_ctl" --pgdata "$work/$copy/data" --mode immediate stop >/dev/null 2>&1 || true; done
  rm -rf "$work"
}
trap cleanup EXIT
failed=0
is() { [[ $2 == "$3" ]] || { failed=1; echo "FAILED: $1 is \"$2\", not \"$3\""; }; }
refused() { if "${@:2}" >"$work/out" 2>&1; then failed=1; echo "FAILED: $1 was not refused"; fi; }

as "$bin/initdb" --pgdata "$work/run/data" --username postgres --auth trust --no-sync >/dev/null
as bash -c "cat >>$work/run/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work/run'
fsync = off
wal_level = replica
archive_mode = on
archive_command = 'test ! -f $work/archive/%f && cp %p $work/archive/%f'
CONF
as "$bin/pg_ctl" --pgdata "$work/run/data" --wait --log "$work/run/log" start >/dev/null
super() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --host "$work/run" --username postgres --dbname "${2:-fieldtrack}" --command "$1"; }
super 'CREATE DATABASE fieldtrack' postgres
super 'CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY, run_on timestamp NOT NULL DEFAULT now())'
for folder in "$root"/migrations/*/; do
  transaction=(--single-transaction)
  if grep -qs '^run_in_transaction *= *false' "$folder/metadata.toml"; then transaction=(); fi
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 ${transaction[@]+"${transaction[@]}"} --host "$work/run" --username postgres --dbname fieldtrack --file "$folder/up.sql" >/dev/null
  name=$(basename "$folder")
  name=${name%%_*}
  super "INSERT INTO __diesel_schema_migrations (version) VALUES ('${name//-/}')"
done
head=${name//-/}
organization=00000000-0000-4000-8000-000000000001
super "INSERT INTO organizations (id, name, slug) VALUES ('$organization', 'Drill', 'drill')"
hire() { super "INSERT INTO employees (organization_id, id, name, employee_code) VALUES ('$organization', gen_random_uuid(), 'x', '$1')"; }
hire E1
hire E2

export STATE_DIR=$work/state BACKUP_DIR=$work/backup BACKUP_ARCHIVE=$work/archive BACKUP_LOCK=$work/lock ENV_FILE=$work/none PG_BIN=$bin
export BACKUP_SOURCE="postgresql://postgres@/fieldtrack?host=$work/run" WAL_SETTLE_S=2 PATH=$bin:$PATH
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=backup -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
export BACKUP_RECIPIENT=$work/certificate.pem

"$root/deploy/backup.sh" run base 2>/dev/null
"$root/deploy/backup.sh" run dump 2>/dev/null
hire E3
before=$(super 'SELECT clock_timestamp()')
sleep 0.2
# The accident, and life after it.
super "DELETE FROM employees"
hire E9
"$root/deploy/backup.sh" run wal
is 'plain files of data' "$(find "$BACKUP_DIR" -type f ! -name '*.cms' ! -name SHA256SUMS ! -name manifest.json | wc -l)" 0
is 'segments that stay in the archive' "$(find "$work/archive" -type f ! -name '*.backup' | wc -l)" 0
is 'listed' "$("$root/deploy/backup.sh" list | awk '{ print $1 }' | tr '\n' ' ')" 'base dump wal '
"$root/deploy/backup.sh" verify
for name in base dump wal; do is "metric of $name" "$(grep -c "backup_last_success_timestamp_seconds{kind=\"$name\"}" "$STATE_DIR/metrics/fieldtrack_backup.prom")" 1; done

refused 'a restore without the key' "$root/deploy/restore.sh" --to "$before" --into "$work/nokey"
rm -rf "$work/nokey"
export BACKUP_IDENTITY=$work/key.pem
"$root/deploy/restore.sh" --to "$before" --into "$work/copy" 2>/dev/null
as "$bin/pg_ctl" --pgdata "$work/copy/data" --wait --log "$work/copy/log" start >/dev/null
copy() { psql --no-psqlrc --quiet --tuples-only --no-align --host "$work/$1" --username postgres --dbname fieldtrack --command "$2"; }
until [[ $(copy copy 'SELECT pg_is_in_recovery()') == f ]]; do sleep 0.1; done
is 'people before the accident' "$(copy copy 'SELECT string_agg(employee_code, $$ $$ ORDER BY employee_code) FROM employees')" 'E1 E2 E3'
is 'migrations' "$(copy copy 'SELECT max(version) FROM __diesel_schema_migrations')" "$head"
is 'the live database' "$(super 'SELECT string_agg(employee_code, $$ $$) FROM employees')" E9
is 'policies' "$(copy copy 'SELECT count(*) FROM pg_policies')" "$(super 'SELECT count(*) FROM pg_policies')"
is 'what the role of tenants sees' "$(copy copy 'SET ROLE fieldtrack_app; SELECT count(*) FROM employees')" 0
is 'what it sees of its organization' "$(copy copy "SET ROLE fieldtrack_app; SET app.organization_id = '$organization'; SELECT count(*) FROM employees")" 3
refused 'a name that exists' "$root/deploy/restore.sh" --to latest --into "$work/copy"
refused 'a time before every backup' "$root/deploy/restore.sh" --to 2001-01-01T00:00:00Z --into "$work/early"

# The portable copy.
openssl cms -decrypt -binary -inform DER -inkey "$work/key.pem" -in "$(find "$BACKUP_DIR/dump" -name '*.cms')" >"$work/fieldtrack.dump"
super 'CREATE DATABASE portable' postgres
pg_restore --host "$work/run" --username postgres --dbname portable "$work/fieldtrack.dump"
is 'people of the dump' "$(super 'SELECT count(*) FROM employees' portable)" 2

# The drill. People were deleted since the manifest, so it must say that rows are missing; with them it passes.
refused 'a copy with fewer people than were backed up' "$root/deploy/restore.sh" --drill
hire E10
hire E11
super "INSERT INTO attendance_sessions (organization_id, id, employee_id, checkin_at) SELECT organization_id, gen_random_uuid(), id, now() FROM employees LIMIT 1"
"$root/deploy/backup.sh" run wal
"$root/deploy/restore.sh" --drill >"$work/drill"
is 'head of the drill' "$(jq -r .head "$work/drill")" "$head"
is 'the drill tells its figures' "$(jq -r '(.rto_s >= 0) and (.data_age_s >= 0) and (.data_age_s < 600)' "$work/drill")" true
is 'metric of the drill' "$(grep -c restore_drill_last_success "$STATE_DIR/metrics/fieldtrack_restore.prom")" 1

printf x >>"$(find "$BACKUP_DIR/base" -name '*.cms')"
refused 'a damaged copy' "$root/deploy/backup.sh" verify
refused 'a restore of it' "$root/deploy/restore.sh" --to latest --into "$work/latest"
((failed == 0)) && echo 'backups restore to the moment, encrypted, and damage is noticed'
exit "$failed"
