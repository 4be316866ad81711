# shellcheck shell=bash
# What the deployment itself reads. The services' settings stand in the same file and are passed on unread.

# Variables of ours that no service may see: what only deployment, the edge, the stores and monitoring read.
NOT_FOR_SERVICES="IMAGE_REPO RELEASE PULL_POLICY NOFILE STATE_DIR API_SUBNET API_NET WORKER_REPLICAS HEALTH_TIMEOUT_S WATCH_S \
API_MEMORY API_CPUS WORKER_MEMORY WORKER_CPUS SMOKE_TOKEN ENV_FILE API_HOSTNAME NGINX_RATE_DEFAULT NGINX_RATE_LOGIN \
NGINX_RATE_HEALTH HTTP_PORT HTTPS_PORT TLS_DIR ACME_DIR MIGRATION_DATABASE_URL ADMIN_PASSWORD POSTGRES_PASSWORD \
POSTGRES_MEMORY REDIS_MEMORY REDIS_MAXMEMORY BACKUP_DIR BACKUP_RECIPIENT BACKUP_IDENTITY BACKUP_OFFSITE BACKUP_SOURCE \
PROMETHEUS_IMAGE ALERTMANAGER_IMAGE GRAFANA_ADMIN_PASSWORD ALERT_WEBHOOK_URL HEARTBEAT_URL"

# env_value NAME: its value in the environment file, quotes around it cut; empty when it is not there.
env_value() {
  local line value=
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line == "$1="* ]] || continue
    value=${line#*=}
    value=${value%$'\r'}
    if [[ ${#value} -ge 2 && ($value == \"*\" || $value == \'*\') ]]; then value=${value:1:-1}; fi
  done <"$ENV_FILE"
  printf '%s' "$value"
}

# setting NAME DEFAULT PATTERN: from the environment, else the file, else the default; a value of another shape is refused.
setting() {
  local value=${!1:-}
  if [[ -z $value && -r $ENV_FILE ]]; then value=$(env_value "$1"); fi
  value=${value:-$2}
  if ! [[ $value =~ ^($3)$ ]]; then
    SETTINGS_PROBLEMS+=("$1 has a value that cannot be used")
    value=$2
  fi
  printf -v "$1" '%s' "$value"
}

read_settings() {
  local root=$1
  SETTINGS_PROBLEMS=()
  ENV_FILE=${ENV_FILE:-$root/.env}
  setting STATE_DIR /var/lib/fieldtrack '/[^[:space:]]*'
  setting IMAGE_REPO fieldtrack '[a-z0-9][a-z0-9._/:-]*'
  setting PULL_POLICY missing 'always|missing|never'
  setting API_SUBNET 172.30.0.0/24 '[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.0/24'
  setting WORKER_REPLICAS 2 '[1-9][0-9]?'
  setting HEALTH_TIMEOUT_S 60 '[1-9][0-9]{0,2}'
  setting WATCH_S 30 '[0-5]?[0-9]{1,2}|600'
  setting API_MEMORY 512m '[1-9][0-9]*[mg]'
  setting API_CPUS 1.0 '[0-9]+(\.[0-9]+)?'
  setting WORKER_MEMORY 256m '[1-9][0-9]*[mg]'
  setting WORKER_CPUS 1.0 '[0-9]+(\.[0-9]+)?'
  setting SHUTDOWN_TIMEOUT_S 25 '[1-9][0-9]?|1[01][0-9]|120'
  setting API_HOSTNAME localhost '[A-Za-z0-9.-]+'
  setting API_BASE_URL "https://$API_HOSTNAME" 'https?://[^[:space:]]+'
  setting NOFILE 65536 '[1-9][0-9]{2,6}'
  setting APP_ENV development '[a-z]+'
  setting HTTPS_PORT 443 '[1-9][0-9]{0,4}'
  setting SMOKE_TOKEN '' '[A-Za-z0-9._~+/=-]*'
  setting METRICS_SCRAPE_TOKEN '' '[^[:space:]"\\]*'
  GRACE_S=$((SHUTDOWN_TIMEOUT_S + 10))
  NETWORK=api_network
  EDGE=$STATE_DIR/edge
  declare -gA PORT_OF=([blue]=3001 [green]=3002)
  declare -gA ADDRESS_OF=([blue]="${API_SUBNET%.0/24}.11" [green]="${API_SUBNET%.0/24}.12" [nginx]="${API_SUBNET%.0/24}.10")
}

# megabytes 512m|1g
megabytes() { if [[ $1 == *g ]]; then printf '%d' $((${1%g} * 1024)); else printf '%d' "${1%m}"; fi; }

# What the services see: the file without what is not for them. Mode 0600, removed at the end of the command.
write_service_env() {
  local line name
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || continue
    name=${line%%=*}
    [[ " $NOT_FOR_SERVICES " == *" ${name%_FILE} "* || " $NOT_FOR_SERVICES " == *" $name "* ]] && continue
    printf '%s=%s\n' "$name" "$(env_value "$name")"
  done <"$ENV_FILE" >"$1"
  if ! grep -q '^TRUSTED_PROXIES=.' "$1"; then printf 'TRUSTED_PROXIES=%s\n' "${ADDRESS_OF[nginx]}" >>"$1"; fi
}

# The owner's address, for the one-off containers that migrate and ask how far the database is.
write_owner_env() { printf 'MIGRATION_DATABASE_URL=%s\n' "$(env_value MIGRATION_DATABASE_URL)" >"$1"; }
