# shellcheck shell=bash
# What backup.sh and restore.sh share: where the database is, and what is counted to compare copies with it.

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

backup_setting() {
  local value=${!1:-} line
  if [[ -z $value && -r $ENV_FILE ]]; then
    line=$(grep "^$1=" "$ENV_FILE" | tail -n 1 || true)
    value=${line#*=}
  fi
  printf -v "$1" '%s' "${value:-$2}"
}

read_backup_settings() {
  ENV_FILE=${ENV_FILE:-$1/.env}
  backup_setting STATE_DIR /var/lib/fieldtrack
  backup_setting BACKUP_DIR "$STATE_DIR/backup"
  backup_setting BACKUP_RECIPIENT ''
  backup_setting BACKUP_IDENTITY ''
  backup_setting BACKUP_OFFSITE ''
  backup_setting BACKUP_SOURCE postgres
  backup_setting BACKUP_ARCHIVE ''
  # shellcheck disable=SC2034
  database=${BACKUP_DATABASE:-fieldtrack}
}

is_address() { [[ $BACKUP_SOURCE == postgres*://* ]]; }

# source_tool PROGRAM WORDS…: in the container as its superuser, or here against the address.
source_tool() {
  if is_address; then
    local program=$1 words=("${@:2}") place
    # pg_dump takes the address as the database; it knows which.
    for place in "${!words[@]}"; do [[ ${words[place]} == --dbname=* ]] && unset 'words[place]'; done
    "$program" "${words[@]}" --dbname="$BACKUP_SOURCE"
  else
    docker exec --user postgres "$BACKUP_SOURCE" "$1" --username=postgres "${@:2}"
  fi
}

sql() {
  if is_address; then
    psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --dbname "$BACKUP_SOURCE" --command "$1"
  else
    docker exec --user postgres "$BACKUP_SOURCE" psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 \
      --username=postgres --dbname="$database" --command "$1"
  fi
}

# The archive of changes: a folder here, or of the container.
archive=${BACKUP_ARCHIVE_INSIDE:-/var/lib/postgresql/archive}
archive_list() { if [[ -n $BACKUP_ARCHIVE ]]; then find "$BACKUP_ARCHIVE" -maxdepth 1 -type f ! -name '.*' -printf '%f\n' | sort; else docker exec "$BACKUP_SOURCE" ls "$archive"; fi; }
archive_read() { if [[ -n $BACKUP_ARCHIVE ]]; then cat "$BACKUP_ARCHIVE/$1"; else docker exec "$BACKUP_SOURCE" cat "$archive/$1"; fi; }
archive_drop() { if [[ -n $BACKUP_ARCHIVE ]]; then rm "$BACKUP_ARCHIVE/$1"; else docker exec "$BACKUP_SOURCE" rm "$archive/$1"; fi; }

# Rows of every table of ours, counted as the superuser, whom row-level security does not hide them from.
# shellcheck disable=SC2034
counts="SELECT json_object_agg(t.relname, (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', n.nspname, t.relname), false, true, '')))[1]::text::bigint ORDER BY t.relname)
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname IN ('public', 'app') AND t.relkind IN ('r', 'p') AND NOT t.relispartition"

# gauge KIND BYTES: for the node exporter's textfile collector.
gauge() {
  local file=$STATE_DIR/metrics/fieldtrack_backup.prom
  mkdir -p "$STATE_DIR/metrics"
  {
    grep -v "{kind=\"$1\"}" "$file" 2>/dev/null || true
    printf 'backup_last_success_timestamp_seconds{kind="%s"} %s\nbackup_size_bytes{kind="%s"} %s\n' "$1" "$(date +%s)" "$1" "$2"
  } >"$file.new"
  chmod 0644 "$file.new"
  mv "$file.new" "$file"
}
