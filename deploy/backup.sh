#!/usr/bin/env bash
# backup.sh - copies of the database that a restore can be made from, at any point in time.
#
#   backup.sh run [base|dump|wal|config]   all of them by default; `wal` every minute, the rest every night
#   backup.sh list                         what there is, with times and sizes
#   backup.sh verify [DIR]                 sums of every copy, or of one
#   backup.sh prune                        14 days of base backups and archive, 12 monthly dumps
#
# Each copy is a folder of BACKUP_DIR with manifest.json (what was counted when it was made) and SHA256SUMS. With
# BACKUP_RECIPIENT (a certificate) files are encrypted before they get there; BACKUP_OFFSITE, a command, then takes each
# folder off the machine. BACKUP_SOURCE is the postgres container, or an address that pg_basebackup and pg_dump take.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/backups.sh
. "$here/lib/backups.sh"
read_backup_settings "$here/.."

# seal SOURCE… : standard input to FILE, encrypted when there is somebody to encrypt for
seal() {
  if [[ -n $BACKUP_RECIPIENT ]]; then
    openssl cms -encrypt -binary -stream -aes-256-gcm -outform DER -recip "$BACKUP_RECIPIENT" -out "$1.cms"
  else
    cat >"$1"
  fi
}

# finish FOLDER KIND: sums, then the folder gets its name: one without a name is not whole.
finish() {
  local folder=$1 kind=$2 name
  (cd "$folder" && find . -type f -print0 | sort -z | xargs -0 sha256sum >"$folder.sums")
  mv "$folder.sums" "$folder/SHA256SUMS"
  sync -f "$folder"
  name=$BACKUP_DIR/$kind/$(date -u +%Y%m%dT%H%M%SZ)
  mkdir -p "$BACKUP_DIR/$kind"
  mv "$folder" "$name"
  if [[ -n $BACKUP_OFFSITE ]]; then $BACKUP_OFFSITE "$name"; fi
  gauge "$kind" "$(du -sb "$name" | cut -f1)"
  say "$name"
}

fresh() {
  mkdir -p "$BACKUP_DIR"
  chmod 0700 "$BACKUP_DIR"
  mktemp -d "$BACKUP_DIR/.making.XXXXXX"
}

# What a restore is compared with: taken in the same instant as a dump, right before a base backup.
manifest() {
  sql "SELECT json_build_object('at', now(), 'head', (SELECT max(version) FROM __diesel_schema_migrations),
         'policies', (SELECT count(*) FROM pg_policies), 'tables', ($counts))"
}

base() {
  local folder
  folder=$(fresh)
  manifest >"$folder/manifest.json"
  source_tool pg_basebackup --pgdata=- --format=tar --wal-method=fetch --checkpoint=fast --label=fieldtrack | gzip -1 | seal "$folder/base.tar.gz"
  finish "$folder" base
}

dump() {
  local folder
  folder=$(fresh)
  manifest >"$folder/manifest.json"
  source_tool pg_dump --format=custom --no-password --dbname="$database" | seal "$folder/fieldtrack.dump"
  finish "$folder" dump
}

# The archive of changes: what PostgreSQL has put there and is not here yet.
wal() {
  local name
  mkdir -p "$BACKUP_DIR/wal"
  # A segment that nobody has filled yet is closed, or the newest minutes would exist once only.
  sql 'SELECT pg_switch_wal()' >/dev/null
  sleep "${WAL_SETTLE_S:-1}"
  while read -r name; do
    [[ -e $BACKUP_DIR/wal/$name || -e $BACKUP_DIR/wal/$name.cms ]] && continue
    archive_read "$name" | seal "$BACKUP_DIR/wal/.new"
    mv "$BACKUP_DIR/wal/.new${BACKUP_RECIPIENT:+.cms}" "$BACKUP_DIR/wal/$name${BACKUP_RECIPIENT:+.cms}"
    if [[ -n $BACKUP_OFFSITE ]]; then $BACKUP_OFFSITE "$BACKUP_DIR/wal/$name${BACKUP_RECIPIENT:+.cms}"; fi
    archive_drop "$name"
  done < <(archive_list)
  gauge wal "$(du -sb "$BACKUP_DIR/wal" | cut -f1)"
}

# The settings and the state of the deployment: never with the data, and never readable.
config() {
  local folder
  [[ -n $BACKUP_RECIPIENT ]] || { say 'settings are copied only encrypted: BACKUP_RECIPIENT is not set'; return 0; }
  folder=$(fresh)
  tar -C / -cz "${ENV_FILE#/}" "${STATE_DIR#/}/deployments.jsonl" "${STATE_DIR#/}/worker-active" 2>/dev/null | seal "$folder/settings.tar.gz"
  finish "$folder" config
}

list() {
  local folder
  for folder in "$BACKUP_DIR"/{base,dump,config}/*/; do
    [[ -d $folder ]] || continue
    printf '%-6s %s %12s bytes\n' "$(basename "$(dirname "$folder")")" "$(basename "$folder")" "$(du -sb "$folder" | cut -f1)"
  done
  printf 'wal    %s files, newest %s\n' "$(find "$BACKUP_DIR/wal" -type f 2>/dev/null | wc -l)" \
    "$(find "$BACKUP_DIR/wal" -type f -printf '%TY-%Tm-%TdT%TH:%TM\n' 2>/dev/null | sort | tail -n 1)"
}

verify() {
  local folder bad=0 all=("$BACKUP_DIR"/{base,dump,config}/*/)
  if [[ -n $1 ]]; then all=("$1"); fi
  for folder in "${all[@]}"; do
    [[ -d $folder ]] || continue
    (cd "$folder" && sha256sum --check --quiet SHA256SUMS) || { say "$folder is damaged"; bad=1; }
  done
  return "$bad"
}

prune() {
  local oldest folder month seen=' '
  find "$BACKUP_DIR/base" "$BACKUP_DIR/config" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} + 2>/dev/null || true
  # The archive is of use from the oldest base backup on.
  oldest=$(find "$BACKUP_DIR/base" -mindepth 1 -maxdepth 1 -type d | sort | head -n 1)
  if [[ -n $oldest ]]; then find "$BACKUP_DIR/wal" -type f ! -newer "$oldest/manifest.json" -mtime +1 -delete 2>/dev/null || true; fi
  # Dumps: every one for 14 days, then the first of each month, 12 of them.
  while read -r folder; do
    month=$(basename "$folder")
    month=${month:0:6}
    if [[ -n $(find "$folder" -maxdepth 0 -mtime -15) ]]; then continue; fi
    if [[ $seen != *" $month "* && $(wc -w <<<"$seen") -lt 12 ]]; then seen+="$month "; else rm -rf "$folder"; fi
  done < <(find "$BACKUP_DIR/dump" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sort -r)
}

case ${1:-} in
  run)
    exec 9>>"${BACKUP_LOCK:-/tmp/fieldtrack-backup.lock}"
    flock --wait 600 9
    case ${2:-all} in
      base | dump | wal | config) "$2" ;;
      all) base; dump; wal; config; prune ;;
      *) sed -n '2,13p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
    esac
    ;;
  list) list ;;
  verify) verify "${2:-}" ;;
  prune) prune ;;
  *) sed -n '2,13p' "${BASH_SOURCE[0]}" >&2; exit 64 ;;
esac
