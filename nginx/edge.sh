#!/usr/bin/env bash
# edge.sh - nginx with its configuration rendered from the settings.
#
#   edge.sh start    renders, tests, and becomes nginx (what the container runs)
#   edge.sh check    tests the configuration in force
#   edge.sh test     renders beside the running configuration and tests it; changes nothing
#   edge.sh reload   the same, then puts it in force; a configuration that fails the test never is
#   edge.sh put-back puts the configuration before the last reload in force again
#   edge.sh render DIR
#
# Settings, each with the default of the product: API_HOSTNAME, API_SUBNET, NGINX_RATE_DEFAULT, NGINX_RATE_LOGIN,
# NGINX_RATE_HEALTH, BODY_LIMIT_BYTES, REQUEST_TIMEOUT_MS, APP_ENV. Places, for tests: EDGE_*.
set -euo pipefail
export TZ=UTC LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${EDGE_WORK:-/tmp/edge}
tls=${EDGE_TLS:-/tls}
state=${EDGE_STATE:-/state}
acme=${EDGE_ACME:-/acme}

die() { printf 'edge.sh: %s\n' "$*" >&2; exit 78; }

# setting NAME DEFAULT PATTERN: what is rendered must look like what is meant
setting() {
  local value=${!1:-$2}
  [[ $value =~ ^($3)$ ]] || die "$1 must look like $2"
  printf '%s' "$value"
}

# burst RATE: what may come at once, two seconds' worth
burst() {
  local rate=$((${1%r/*} * 2))
  if [[ $1 == *m ]]; then rate=$(((rate + 59) / 60)); fi
  printf '%s' "$rate"
}

at_least() { [[ $(printf '%s\n%s\n' "$1" "$version" | sort -V | head -n 1) == "$1" ]]; }

# The certificate, or one that signs itself: enough to try things, refused in production.
certificate() {
  if [[ -s $tls/fullchain.pem && -s $tls/privkey.pem ]]; then
    printf '%s' "$tls"
    return
  fi
  [[ ${APP_ENV:-development} != production ]] || die "no $tls/fullchain.pem and privkey.pem"
  if [[ ! -s $work/own/privkey.pem ]]; then
    mkdir -p "$work/own"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$hostname" \
      -addext "subjectAltName=DNS:$hostname" -keyout "$work/own/privkey.pem" -out "$work/own/fullchain.pem" 2>/dev/null ||
      die "openssl made no certificate"
    printf 'edge.sh: no certificate in %s: serving one that signed itself\n' "$tls" >&2
  fi
  printf '%s' "$work/own"
}

render() {
  local target=$1 final=$2 subnet body timeout hostname rate_default rate_login rate_health certs stapling=
  local user='' h2_listen=http2 h2_on='' keepalive_min='' version file
  hostname=$(setting API_HOSTNAME localhost '[A-Za-z0-9.-]+')
  subnet=$(setting API_SUBNET 172.30.0.0/24 '[0-9]+\.[0-9]+\.[0-9]+\.0/24')
  rate_default=$(setting NGINX_RATE_DEFAULT 60r/s '[1-9][0-9]*r/[sm]')
  rate_login=$(setting NGINX_RATE_LOGIN 5r/s '[1-9][0-9]*r/[sm]')
  rate_health=$(setting NGINX_RATE_HEALTH 5r/s '[1-9][0-9]*r/[sm]')
  body=$(setting BODY_LIMIT_BYTES 1000000 '[1-9][0-9]{0,8}')
  timeout=$(setting REQUEST_TIMEOUT_MS 30000 '[1-9][0-9]{2,5}')
  certs=$(certificate)
  version=$(nginx -v 2>&1 | sed 's,.*nginx/\([0-9.]*\).*,\1,')
  at_least 1.25.1 && h2_listen='' h2_on='http2 on;'
  at_least 1.27.4 && keepalive_min='keepalive_min_timeout 10s;'
  [[ $(id -u) == 0 ]] && user='user www-data;'
  if openssl x509 -noout -ocsp_uri -in "$certs/fullchain.pem" 2>/dev/null | grep -q .; then
    stapling='ssl_stapling on; ssl_stapling_verify on;'
  fi
  mkdir -p "$target" "$work"
  for file in "$here"/templates/*.conf "$here"/*.conf; do
    sed -e "s,@RENDERED@,$final,g" -e "s,@WORK@,$work,g" -e "s,@STATE@,$state,g" -e "s,@ACME@,$acme,g" \
      -e "s,@USER@,$user,g" -e "s,@HOSTNAME@,$hostname,g" -e "s,@APP_ENV@,${APP_ENV:-development},g" \
      -e "s,@BLUE@,${EDGE_BLUE:-${subnet%.0/24}.11:3001},g" -e "s,@GREEN@,${EDGE_GREEN:-${subnet%.0/24}.12:3002},g" \
      -e "s,@RATE_DEFAULT@,$rate_default,g" -e "s,@RATE_LOGIN@,$rate_login,g" -e "s,@RATE_HEALTH@,$rate_health,g" \
      -e "s,@BURST_DEFAULT@,$(burst "$rate_default"),g" -e "s,@BURST_LOGIN@,$(burst "$rate_login"),g" \
      -e "s,@BURST_HEALTH@,$(burst "$rate_health"),g" -e "s,@MAX_BODY@,$((body + body / 10)),g" -e "s,@READ_TIMEOUT@,$((timeout + 5000))ms,g" \
      -e "s,@KEEPALIVE_MIN@,$keepalive_min,g" -e "s,@STAPLING@,$stapling,g" \
      -e "s,@H2_LISTEN@,$h2_listen,g" -e "s,@H2_ON@,$h2_on,g" \
      -e "s,@HTTP_PORT@,${EDGE_HTTP_PORT:-80},g" -e "s,@HTTPS_PORT@,${EDGE_HTTPS_PORT:-443},g" \
      -e "s,@STATUS_PORT@,${EDGE_STATUS_PORT:-8081},g" -e "s,@RESOLVER@,${EDGE_RESOLVER:-127.0.0.11},g" \
      -e "s,@ACCESS_LOG@,${EDGE_ACCESS_LOG:-/dev/stdout},g" -e "s,@MONITOR@,${EDGE_MONITOR:-grafana:3000},g" \
      -e "s,@CERTIFICATE@,$certs/fullchain.pem,g" -e "s,@KEY@,$certs/privkey.pem,g" "$file" >"$target/$(basename "$file")"
  done
}

check() { nginx -e stderr -t -q -c "$1/nginx.conf"; }

# The candidate is tested where it was rendered, and names itself by that place.
candidate() {
  rm -rf "$work/candidate"
  render "$work/candidate" "$work/candidate"
  check "$work/candidate"
}

case ${1:-} in
  start)
    render "$work/current" "$work/current"
    check "$work/current"
    # Complaints of nginx name the whole request line; what follows the question mark is nobody's business.
    exec 2> >(exec sed -u -E 's/\?[^ ",]*/?…/g' >&2)
    exec nginx -e stderr -c "$work/current/nginx.conf" -g 'daemon off;'
    ;;
  test) candidate ;;
  check) check "$work/current" ;;
  reload)
    candidate
    rm -rf "$work/last-good"
    cp -a "$work/current" "$work/last-good"
    render "$work/current" "$work/current"
    if ! check "$work/current"; then
      rm -rf "$work/current"
      mv "$work/last-good" "$work/current"
      die "the new configuration does not pass; the old one stays"
    fi
    nginx -e stderr -c "$work/current/nginx.conf" -s reload
    ;;
  put-back)
    [[ -d $work/last-good ]] || die "there is no last good configuration"
    rm -rf "$work/current"
    cp -a "$work/last-good" "$work/current"
    nginx -e stderr -c "$work/current/nginx.conf" -s reload
    ;;
  render) render "${2:?a folder}" "$2" ;;
  *) sed -n '2,13p' "$0" >&2; exit 64 ;;
esac
