#!/usr/bin/env bash
# build-images.sh - the images of one release, with the labels that deploy.sh insists on.
#
#   deploy/build-images.sh RELEASE                  compiles in the image
#   deploy/build-images.sh RELEASE --prebuilt DIR   takes DIR/api-gateway and DIR/distance-worker as they are
#   deploy/build-images.sh --schema-head            prints the newest migration, 14 digits, and does nothing
#
# RELEASE becomes the tag and the label org.opencontainers.image.revision: the full commit in production.
# IMAGE_REPO (fieldtrack) names the repository. BUILD_ARGS holds more words for `docker build`
# (--build-arg RUNTIME_BASE=debian:bookworm-slim@sha256:…).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The program's own rule: the digits of the folder's name in front of the first underscore.
schema_head() {
  local folder name head=
  for folder in "$here"/migrations/*/; do
    name=$(basename "$folder")
    name=${name%%_*}
    name=${name//-/}
    [[ $name > $head ]] && head=$name
  done
  printf '%s\n' "$head"
}

usage() {
  sed -n '2,12p' "${BASH_SOURCE[0]}" >&2
  exit 64
}

[[ ${1:-} == --schema-head ]] && { schema_head; exit 0; }
[[ $# == 1 || ($# == 3 && $2 == --prebuilt) ]] || usage
release=$1
[[ $release =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ && $release != latest ]] || usage

repo=${IMAGE_REPO:-fieldtrack}
head=$(schema_head)
context=$here
programs=inside
if (($# == 3)); then
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  programs=outside
  for program in api-gateway distance-worker; do
    strip --strip-debug -o "$context/$program" "$3/$program" 2>/dev/null || cp "$3/$program" "$context/$program"
  done
fi
created=$(date -u +%Y-%m-%dT%H:%M:%SZ)
source_url=$(git -C "$here" remote get-url origin 2>/dev/null || true)
[[ $source_url == https://*@* || $source_url != https://* ]] && source_url=
read -r -a more <<<"${BUILD_ARGS:-}"
for target in gateway worker; do
  name=api-gateway
  [[ $target == worker ]] && name=distance-worker
  DOCKER_BUILDKIT=1 docker build --quiet --file "$here/Dockerfile" --target "$target" \
    --build-arg "PROGRAMS=$programs" --build-arg "RELEASE=$release" --build-arg "CREATED=$created" --build-arg "SOURCE=$source_url" \
    --build-arg "SCHEMA_HEAD=$head" --build-arg "SCHEMA_MIN=$head" \
    ${more[@]+"${more[@]}"} --tag "$repo/$name:$release" "$context" >/dev/null
  docker image inspect --format "$repo/$name:$release {{.Size}} bytes" "$repo/$name:$release"
done
