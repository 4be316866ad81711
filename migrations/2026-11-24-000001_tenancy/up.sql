-- Two roles serve requests; neither owns anything, is a superuser or bypasses row-level security. An operator gives
-- them LOGIN and a password (deployment does it before the first migration); here they only have to exist.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fieldtrack_app') THEN
        CREATE ROLE fieldtrack_app NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fieldtrack_system') THEN
        CREATE ROLE fieldtrack_system NOLOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole cluster: another database may be migrating at this very moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO fieldtrack_app, fieldtrack_system;

-- The organizations of the present transaction: one, but for fixes of many that are stored in one statement
-- (app.record_points). NULL, which matches no row, when none is set: a transaction-local setting reads '' and not NULL
-- once a session has used it, hence nullif. The claims are what Supabase's own tools set.
CREATE FUNCTION app.current_organizations() RETURNS uuid[]
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(
        string_to_array(nullif(current_setting('app.organization_id', true), ''), ','),
        ARRAY[nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'org_id']
    )::uuid[];

CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    -- The number last given to an employee who came without a code.
    employee_counter bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organizations
    USING (id = ANY ((SELECT app.current_organizations())::uuid[])) WITH CHECK (id = ANY ((SELECT app.current_organizations())::uuid[]));
-- `organization create` makes organizations; no request ever does.
CREATE POLICY system_creates ON organizations FOR INSERT TO fieldtrack_system WITH CHECK (true);
GRANT SELECT, UPDATE (employee_counter) ON organizations TO fieldtrack_app;
GRANT INSERT ON organizations TO fieldtrack_system;

CREATE TYPE user_role AS ENUM ('ADMIN', 'EMPLOYEE');

CREATE TABLE users (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    -- Kept in lower case: one address, one account, however it is typed.
    email text NOT NULL UNIQUE CHECK (email = lower(email)),
    role user_role NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id)
);
-- Tokens name a user without their organization.
CREATE INDEX users_id ON users (id);
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON users
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- Signing in looks an address up before any organization is known; `organization create` makes the first user.
CREATE POLICY system_signs_in ON users FOR SELECT TO fieldtrack_system USING (true);
CREATE POLICY system_creates ON users FOR INSERT TO fieldtrack_system WITH CHECK (true);
GRANT SELECT, INSERT ON users TO fieldtrack_app;
GRANT SELECT, INSERT ON users TO fieldtrack_system;

CREATE TABLE employees (
    organization_id uuid NOT NULL REFERENCES organizations,
    id uuid NOT NULL,
    user_id uuid,
    name text NOT NULL CHECK (name <> ''),
    phone text,
    is_active boolean NOT NULL DEFAULT true,
    employee_code text NOT NULL CHECK (employee_code <> ''),
    -- The first run of digits of the code, for natural order.
    employee_number bigint,
    last_activity_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id),
    CONSTRAINT employees_code_key UNIQUE (organization_id, employee_code),
    CONSTRAINT employees_user_key UNIQUE (organization_id, user_id),
    -- Both columns: an employee's user belongs to the same organization, or there is no such row.
    CONSTRAINT employees_user_fkey FOREIGN KEY (organization_id, user_id) REFERENCES users (organization_id, id)
);
ALTER TABLE employees ENABLE ROW LEVEL SECURITY;
ALTER TABLE employees FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON employees
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- A token carries the employee of the user who signs in.
CREATE POLICY system_signs_in ON employees FOR SELECT TO fieldtrack_system USING (true);
GRANT SELECT, INSERT, UPDATE ON employees TO fieldtrack_app;
GRANT SELECT (organization_id, id, user_id, is_active) ON employees TO fieldtrack_system;
