#!/usr/bin/env bash
# First start of an empty database: the three roles and the database, as the services' addresses name them. The image
# runs it once, as its superuser, over the local socket.
set -euo pipefail

# part URL N: user (1), password (2), database (3) of postgres://user:password@host/database
part() {
  [[ $1 =~ ^postgres(ql)?://([^:@/]+):([^@/]+)@[^/]+/([A-Za-z0-9_]+) ]] || { echo "an address without user, password or database" >&2; exit 1; }
  printf '%s' "${BASH_REMATCH[$(($2 + 1))]}"
}

database=$(part "$MIGRATION_DATABASE_URL" 3)
for url in "$MIGRATION_DATABASE_URL" "$DATABASE_URL" "$SYSTEM_DATABASE_URL"; do
  psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
    --set role="$(part "$url" 1)" --set password="$(part "$url" 2)" <<'SQL'
CREATE ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'password';
SQL
done
owner=$(part "$MIGRATION_DATABASE_URL" 1)
psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres --set database="$database" --set owner="$owner" \
  --set app="$(part "$DATABASE_URL" 1)" --set system="$(part "$SYSTEM_DATABASE_URL" 1)" <<'SQL'
CREATE DATABASE :"database" OWNER :"owner";
REVOKE CONNECT ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"owner", :"app", :"system";
SQL
mkdir -p /var/lib/postgresql/archive
chmod 0700 /var/lib/postgresql/archive
