#!/bin/sh
# Puts the addresses into the configuration, in memory, and becomes Alertmanager. Without an address, alerts are shown
# and sent nowhere (port 9 of the container itself).
set -eu
umask 077
for word in ALERT_WEBHOOK_URL HEARTBEAT_URL; do
  eval "value=\${$word:-}"
  # shellcheck disable=SC2154
  case $value in *[!A-Za-z0-9._~+/=:?\&%-]*) echo "$word has characters that cannot be used" >&2; exit 78 ;; esac
done
people=$(printf '%s' "${ALERT_WEBHOOK_URL:-http://127.0.0.1:9/}" | sed 's/&/\\&/g')
heartbeat=$(printf '%s' "${HEARTBEAT_URL:-http://127.0.0.1:9/}" | sed 's/&/\\&/g')
sed -e "s,@ALERT_WEBHOOK_URL@,$people,g" -e "s,@HEARTBEAT_URL@,$heartbeat,g" /config/alertmanager.yml >/tmp/alertmanager.yml
program=alertmanager
command -v alertmanager >/dev/null || program=prometheus-alertmanager
exec "$program" --config.file=/tmp/alertmanager.yml --storage.path=/alertmanager --cluster.listen-address= "$@"
