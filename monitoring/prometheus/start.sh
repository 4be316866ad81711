#!/bin/sh
# Puts the settings into the configuration, in memory, and becomes Prometheus.
set -eu
umask 077
for word in METRICS_SCRAPE_TOKEN APP_ENV API_HOSTNAME; do
  eval "value=\${$word:-}"
  # shellcheck disable=SC2154
  case $value in *[!A-Za-z0-9._~+/=-]*) echo "$word has characters that cannot be used" >&2; exit 78 ;; esac
done
sed -e "s,@METRICS_SCRAPE_TOKEN@,${METRICS_SCRAPE_TOKEN:-},g" -e "s,@APP_ENV@,${APP_ENV:-development},g" \
  -e "s,@API_HOSTNAME@,${API_HOSTNAME:-localhost},g" /config/prometheus.yml >/tmp/prometheus.yml
exec prometheus --config.file=/tmp/prometheus.yml --storage.tsdb.path=/prometheus --storage.tsdb.retention.time=30d \
  --storage.tsdb.retention.size=8GB --enable-feature=exemplar-storage --web.enable-remote-write-receiver "$@"
