#!/usr/bin/env bash
# ssh-command.sh - the only thing a deployment key may do: in authorized_keys,
#   command="/srv/fieldtrack/deploy/ssh-command.sh",restrict ssh-ed25519 AAAA…
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
read -r -a words <<<"${SSH_ORIGINAL_COMMAND:-}"
case ${words[0]:-} in
  deploy | rollback | status) ;;
  *) echo "deploy, rollback or status" >&2; exit 64 ;;
esac
for word in "${words[@]}"; do
  [[ $word =~ ^[A-Za-z0-9._-]+$ && $word != --force ]] || { echo "a word that is not taken here" >&2; exit 64; }
done
exec "$here/deploy.sh" "${words[@]}"
