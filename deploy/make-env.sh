#!/usr/bin/env bash
# make-env.sh - a first .env: names from the argument, secrets from the machine's randomness, the rest from .env.example.
#
#   deploy/make-env.sh HOSTNAME [FILE]     HOSTNAME: api.example.com; FILE: .env beside compose.yaml
#
# A file that exists is never touched. APP_ENV, STATE_DIR, NOFILE, HTTP_PORT, HTTPS_PORT, API_SUBNET, API_NET and IMAGE_REPO are
# taken over from the environment.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
host=${1:-}
file=${2:-$here/.env}
[[ $host =~ ^[A-Za-z0-9.-]+$ ]] || { sed -n '2,7p' "${BASH_SOURCE[0]}" >&2; exit 64; }
[[ ! -e $file ]] || { echo "$file exists" >&2; exit 1; }

word() { head -c 32 /dev/urandom | base64 | tr -d '+/=\n'; }
app=$(word) system=$(word) owner=$(word) redis=$(word)
domain=${host#*.}
[[ $domain == *.* ]] || domain=$host
state=${STATE_DIR:-/var/lib/fieldtrack}

umask 077
while IFS= read -r line; do
  name=${line%%=*}
  case $line in
    API_HOSTNAME=*) line=API_HOSTNAME=$host ;;
    API_BASE_URL=*) line=API_BASE_URL=https://$host ;;
    APP_BASE_URL=*) line=APP_BASE_URL=https://app.$domain ;;
    FRONTEND_BASE_URL=* | CORS_ORIGIN=*) line=$name=https://console.$domain ;;
    DATABASE_URL=*) line=${line/CHANGE_ME/$app} ;;
    SYSTEM_DATABASE_URL=*) line=${line/CHANGE_ME/$system} ;;
    MIGRATION_DATABASE_URL=*) line=${line/CHANGE_ME/$owner} ;;
    REDIS_URL=*) line=${line/CHANGE_ME/$redis} ;;
    SECRETS_KEY=*) line=SECRETS_KEY=$(head -c 32 /dev/urandom | base64 | tr -d '\n') ;;
    APP_ENV=*) line=APP_ENV=${APP_ENV:-production} ;;
    STATE_DIR=*) line=STATE_DIR=$state ;;
    TLS_DIR=*) line=TLS_DIR=$state/tls ;;
    ACME_DIR=*) line=ACME_DIR=$state/acme ;;
    BACKUP_DIR=*) line=BACKUP_DIR=$state/backup ;;
    NOFILE=*) line=NOFILE=${NOFILE:-65536} ;;
    HTTP_PORT=*) line=HTTP_PORT=${HTTP_PORT:-80} ;;
    HTTPS_PORT=*) line=HTTPS_PORT=${HTTPS_PORT:-443} ;;
    API_SUBNET=*) line=API_SUBNET=${API_SUBNET:-172.30.0.0/24} ;;
    API_NET=*) line=API_NET=${API_NET:-172.30.0} ;;
    IMAGE_REPO=*) line=IMAGE_REPO=${IMAGE_REPO:-fieldtrack} ;;
    *=CHANGE_ME) line=$name=$(word) ;;
  esac
  printf '%s\n' "$line"
done <"$here/.env.example" >"$file"
echo "$file is written, with secrets that are nowhere else: keep a copy in a safe place" >&2
