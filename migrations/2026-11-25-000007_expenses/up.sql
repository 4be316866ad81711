CREATE TYPE expense_status AS ENUM ('PENDING', 'APPROVED', 'REJECTED');

CREATE TABLE expenses (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    employee_id uuid NOT NULL,
    -- Exactly what was claimed: no scale, so no digit is rounded away. NaN counts as larger than infinity.
    amount numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
    description text NOT NULL,
    status expense_status NOT NULL DEFAULT 'PENDING',
    receipt_url text,
    submitted_at timestamptz NOT NULL,
    reviewed_at timestamptz,
    -- NULL also when an API key reviewed it; the audit log names the key.
    reviewed_by uuid,
    rejection_comment text,
    idempotency_key text CHECK (idempotency_key <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id),
    CHECK ((status = 'PENDING') = (reviewed_at IS NULL)),
    CHECK (reviewed_by IS NULL OR reviewed_at IS NOT NULL),
    CHECK (reviewed_at >= submitted_at),
    CHECK ((status = 'REJECTED') = (coalesce(rejection_comment, '') <> '')),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id),
    FOREIGN KEY (organization_id, reviewed_by) REFERENCES users (organization_id, id)
);
-- A phone that sends a claim again makes no second one, also when both arrive at once.
CREATE UNIQUE INDEX expenses_idempotency ON expenses (organization_id, employee_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- The lists, each newest first: of everybody, of one status, of one employee.
CREATE INDEX expenses_newest ON expenses (organization_id, submitted_at DESC, id DESC);
CREATE INDEX expenses_status ON expenses (organization_id, status, submitted_at DESC, id DESC);
CREATE INDEX expenses_employee ON expenses (organization_id, employee_id, submitted_at DESC, id DESC);
ALTER TABLE expenses ENABLE ROW LEVEL SECURITY;
ALTER TABLE expenses FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON expenses
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
-- A claim is never edited and never deleted: a review is the only change.
GRANT SELECT, INSERT ON expenses TO fieldtrack_app;
GRANT UPDATE (status, reviewed_at, reviewed_by, rejection_comment, updated_at) ON expenses TO fieldtrack_app;

-- What an employee has claimed, by status: adding up hundreds of thousands of rows for every look at a dashboard would
-- take longer than a look may. Kept by the triggers below in the transaction of each change, so it is never late, never
-- counts twice and needs nobody to remember it. An employee without a claim has no row.
CREATE TABLE employee_expense_totals (
    organization_id uuid NOT NULL,
    employee_id uuid NOT NULL,
    pending_count bigint NOT NULL CHECK (pending_count >= 0),
    pending_amount numeric NOT NULL CHECK (pending_amount >= 0),
    approved_count bigint NOT NULL CHECK (approved_count >= 0),
    approved_amount numeric NOT NULL CHECK (approved_amount >= 0),
    rejected_count bigint NOT NULL CHECK (rejected_count >= 0),
    rejected_amount numeric NOT NULL CHECK (rejected_amount >= 0),
    latest_submitted_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, employee_id),
    FOREIGN KEY (organization_id, employee_id) REFERENCES employees (organization_id, id)
) WITH (fillfactor = 70);
ALTER TABLE employee_expense_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE employee_expense_totals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON employee_expense_totals
    USING (organization_id = ANY ((SELECT app.current_organizations())::uuid[]))
    WITH CHECK (organization_id = ANY ((SELECT app.current_organizations())::uuid[]));
GRANT SELECT, INSERT, UPDATE ON employee_expense_totals TO fieldtrack_app;

-- Once a statement, however many rows it adds. Employees in the order of their ids, so that two statements that add
-- claims of the same people never wait for each other in a circle.
CREATE FUNCTION app.add_expense_totals() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO employee_expense_totals AS totals
    SELECT organization_id, employee_id,
        count(*) FILTER (WHERE status = 'PENDING'), coalesce(sum(amount) FILTER (WHERE status = 'PENDING'), 0),
        count(*) FILTER (WHERE status = 'APPROVED'), coalesce(sum(amount) FILTER (WHERE status = 'APPROVED'), 0),
        count(*) FILTER (WHERE status = 'REJECTED'), coalesce(sum(amount) FILTER (WHERE status = 'REJECTED'), 0),
        max(submitted_at)
    FROM added GROUP BY organization_id, employee_id ORDER BY organization_id, employee_id
    ON CONFLICT (organization_id, employee_id) DO UPDATE SET
        pending_count = totals.pending_count + excluded.pending_count,
        pending_amount = totals.pending_amount + excluded.pending_amount,
        approved_count = totals.approved_count + excluded.approved_count,
        approved_amount = totals.approved_amount + excluded.approved_amount,
        rejected_count = totals.rejected_count + excluded.rejected_count,
        rejected_amount = totals.rejected_amount + excluded.rejected_amount,
        latest_submitted_at = greatest(totals.latest_submitted_at, excluded.latest_submitted_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER add_expense_totals AFTER INSERT ON expenses
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION app.add_expense_totals();

-- A change moves claims from one status to another: what they were is taken off, what they became is added.
CREATE FUNCTION app.move_expense_totals() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    moved record;
BEGIN
    FOR moved IN
        SELECT organization_id, employee_id,
            coalesce(sum(sign) FILTER (WHERE status = 'PENDING'), 0) AS pending,
            coalesce(sum(sign * amount) FILTER (WHERE status = 'PENDING'), 0) AS pending_amount,
            coalesce(sum(sign) FILTER (WHERE status = 'APPROVED'), 0) AS approved,
            coalesce(sum(sign * amount) FILTER (WHERE status = 'APPROVED'), 0) AS approved_amount,
            coalesce(sum(sign) FILTER (WHERE status = 'REJECTED'), 0) AS rejected,
            coalesce(sum(sign * amount) FILTER (WHERE status = 'REJECTED'), 0) AS rejected_amount
        FROM (
            SELECT organization_id, employee_id, status, amount, 1 AS sign FROM became
            UNION ALL
            SELECT organization_id, employee_id, status, amount, -1 AS sign FROM was
        ) AS changes
        GROUP BY organization_id, employee_id ORDER BY organization_id, employee_id
    LOOP
        UPDATE employee_expense_totals SET
            pending_count = pending_count + moved.pending,
            pending_amount = employee_expense_totals.pending_amount + moved.pending_amount,
            approved_count = approved_count + moved.approved,
            approved_amount = employee_expense_totals.approved_amount + moved.approved_amount,
            rejected_count = rejected_count + moved.rejected,
            rejected_amount = employee_expense_totals.rejected_amount + moved.rejected_amount
        WHERE organization_id = moved.organization_id AND employee_id = moved.employee_id;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER move_expense_totals AFTER UPDATE ON expenses
    REFERENCING OLD TABLE AS was NEW TABLE AS became FOR EACH STATEMENT EXECUTE FUNCTION app.move_expense_totals();
