#!/usr/bin/env bash
# verify.sh URL RELEASE - a release looked at from outside: it is the one that answers, and for 5 minutes it answers well.
set -euo pipefail
url=$1 release=$2 seconds=${VERIFY_SECONDS:-300} asked=0 failed=0
deadline=$((SECONDS + seconds))
while ((SECONDS < deadline)); do
  asked=$((asked + 1))
  answer=$(curl --silent --show-error --max-time 10 --include "$url/health" 2>&1 | tr -d '\r') || true
  status=$(sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p' <<<"$answer")
  seen=$(sed -n 's/^x-release: //Ip' <<<"$answer" | head -n 1)
  if [[ $status != 200 || $seen != "$release" ]]; then
    failed=$((failed + 1))
    echo "status ${status:-none}, release ${seen:-none}" >&2
  fi
  # One in a hundred may be the network's.
  if ((failed > 2 && failed * 100 > asked)); then
    echo "$failed of $asked failed" >&2
    exit 1
  fi
  sleep 1
done
echo "$asked asked, $failed failed"
((failed * 100 <= asked || failed <= 2))
