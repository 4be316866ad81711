#!/usr/bin/env bash
# Redis with the password of REDIS_URL, which stands in no argument list. A queue must refuse, not forget: noeviction.
set -euo pipefail

password=
[[ ${REDIS_URL:-} =~ ^rediss?://[^:@/]*:([^@/]+)@ ]] && password=${BASH_REMATCH[1]}

case ${1:-start} in
  healthcheck)
    [[ $(REDISCLI_AUTH=$password redis-cli ping) == PONG ]]
    ;;
  start)
    umask 077
    {
      printf 'bind 0.0.0.0\ndir /data\nlogfile ""\nappendonly yes\nappendfsync everysec\nsave 3600 1\n'
      printf 'maxmemory %s\nmaxmemory-policy noeviction\n' "${REDIS_MAXMEMORY:-256mb}"
      if [[ -n $password ]]; then printf 'requirepass "%s"\n' "$password"; else printf 'protected-mode no\n'; fi
    } >/tmp/redis.conf
    exec redis-server /tmp/redis.conf
    ;;
esac
