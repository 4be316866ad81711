// Every migration leaves the release before it working, or says why it need not.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { floorOf, lint, statements } from './migrations.mjs';

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../migrations');
// No release is older than these steps: they may do what they like. By name, so that one that is dated back is read.
const firstRelease = new Set([
  '2026-11-24-000001_tenancy', '2026-11-24-000002_identity', '2026-11-24-000003_attendance', '2026-11-24-000004_locations',
  '2026-11-25-000000_schema_floor', '2026-11-25-000005_events', '2026-11-25-000006_people', '2026-11-25-000007_expenses',
  '2026-11-25-000008_schedule', '2026-11-25-000008a_figures', '2026-11-25-000009_webhooks', '2026-11-25-000010_api_keys',
  '2026-11-25-000012_operations', '2026-11-25-000013_inactive',
]);
const rules = (sql, options) => lint(sql, options).map((one) => one.rule);
const floor = "CREATE OR REPLACE FUNCTION app.schema_floor() RETURNS text LANGUAGE sql IMMUTABLE RETURN '20270101000001';\n";

test('every step leaves the release before it working', () => {
  const steps = fs.readdirSync(folder).filter((name) => fs.existsSync(path.join(folder, name, 'up.sql'))).sort();
  let [read, highest] = [0, ''];
  for (const name of steps) {
    const sql = fs.readFileSync(path.join(folder, name, 'up.sql'), 'utf8');
    const floorBefore = highest;
    highest = floorOf(sql) ?? highest;
    if (firstRelease.has(name)) continue;
    const about = path.join(folder, name, 'metadata.toml');
    const transaction = !(fs.existsSync(about) && /^run_in_transaction\s*=\s*false/m.test(fs.readFileSync(about, 'utf8')));
    assert.deepEqual(lint(sql, { transaction, before: floorBefore }), [], `${name}/up.sql`);
    read += 1;
  }
  assert.ok(read > 0, 'no step was read');
  assert.equal(read, steps.length - firstRelease.size, 'a step that is no longer there may go from the list');
  assert.match(highest, /^\d{14}$/);
});

test('what only adds passes', () => {
  for (const sql of [
    'CREATE TABLE a (id uuid PRIMARY KEY, b text NOT NULL);\nCREATE INDEX a_b ON a (b);',
    'ALTER TABLE sessions ADD COLUMN note text;',
    "ALTER TABLE sessions ADD COLUMN kind text NOT NULL DEFAULT 'x';",
    'CREATE TABLE a (id uuid PRIMARY KEY, b text);\nALTER TABLE a ENABLE ROW LEVEL SECURITY;\nALTER TABLE ONLY public.a FORCE ROW LEVEL SECURITY;\n'
      + 'CREATE POLICY p ON a AS RESTRICTIVE USING (true);\nALTER POLICY p ON a USING (false);\nCREATE UNIQUE INDEX u ON a (b);\n'
      + "ALTER TABLE a ADD CONSTRAINT c CHECK (b > '') NOT VALID;\nCREATE TRIGGER t BEFORE UPDATE OF b ON a FOR EACH ROW EXECUTE FUNCTION app.f();",
    'CREATE POLICY p ON a USING (true);',
    'CREATE OR REPLACE FUNCTION app.f() RETURNS int LANGUAGE sql AS $$ UPDATE a SET b = 1; DROP TABLE c; SELECT 1 $$;',
    'CREATE FUNCTION app.g() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;\nREVOKE EXECUTE ON FUNCTION app.g() FROM PUBLIC;',
    '-- DROP TABLE a;\nGRANT SELECT ON a TO b;',
    "ALTER TYPE kind ADD VALUE 'other';",
  ]) assert.deepEqual(rules(sql), [], sql);
  assert.deepEqual(rules('CREATE INDEX CONCURRENTLY a_b ON a (b);', { transaction: false }), []);
});

const breaking = [
  'ALTER TABLE a DROP COLUMN b', 'DROP TABLE a', 'ALTER TABLE a RENAME COLUMN b TO c', 'ALTER TABLE a RENAME TO c',
  'ALTER TABLE a ALTER COLUMN b TYPE bigint', 'ALTER TABLE a ALTER COLUMN b SET NOT NULL', 'ALTER TABLE a ADD COLUMN b text NOT NULL',
  'ALTER TABLE a ALTER COLUMN b DROP DEFAULT', 'ALTER TABLE a DROP CONSTRAINT b', 'DROP FUNCTION app.f(int)', 'DROP VIEW v', 'DROP TYPE t',
  "ALTER TYPE t RENAME VALUE 'a' TO 'b'", 'REVOKE SELECT ON a FROM b', 'TRUNCATE a', 'DROP POLICY tenant ON a', 'DROP TRIGGER t ON a',
  'ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0) NOT VALID', 'ALTER TABLE a ADD CHECK (b > 0) NOT VALID', 'ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e) NOT VALID',
  'CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION app.f()', 'CREATE OR REPLACE TRIGGER t AFTER UPDATE ON a FOR EACH ROW EXECUTE FUNCTION app.f()',
  'ALTER TABLE a ENABLE ROW LEVEL SECURITY', 'ALTER TABLE a FORCE ROW LEVEL SECURITY', 'ALTER POLICY tenant ON a USING (false)', 'CREATE POLICY p ON a AS RESTRICTIVE USING (false)',
  'ALTER TABLE a DISABLE ROW LEVEL SECURITY', 'ALTER TABLE a NO FORCE ROW LEVEL SECURITY', 'ALTER TABLE a SET SCHEMA other',
];

test('what breaks the release before is refused, unless it says why and raises the floor', () => {
  for (const sql of breaking) {
    assert.ok(rules(`${sql};`).length > 0, sql);
    assert.ok(rules(`-- contract: soon\n${sql};\n${floor}`).length > 0, `${sql}: a reason is more than a word`);
    assert.ok(rules(`-- squawk-ignore-file\n${sql};`).length > 0, `${sql}: not by switching the check off`);
    const marked = `-- contract: nobody has read it since the release of\n-- the first of May.\n${sql};`;
    assert.deepEqual(lint(marked).map((one) => /schema_floor/.test(one.says)).every(Boolean) && lint(marked).length > 0, true, sql);
    assert.deepEqual(lint(`${marked}\n${floor}`), [], sql);
  }
});

test('what both breaks and blocks gives both reasons', () => {
  const [contract, locks] = ['-- contract: nobody has written it since the release of May.', '-- locks: a table of a few rows an organization'];
  for (const sql of [
    'CREATE UNIQUE INDEX x ON a (b)', 'ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0)', 'ALTER TABLE a ADD UNIQUE (b)',
    'ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e)',
  ]) {
    for (const words of ['', contract, locks]) assert.ok(rules(`${words}\n${sql};\n${floor}`).length > 0, `${words} ${sql}`);
    assert.deepEqual(rules(`${contract}\n${locks}\n${sql};\n${floor}`), [], sql);
  }
  const concurrently = 'CREATE UNIQUE INDEX CONCURRENTLY x ON a (b);';
  assert.deepEqual(rules(concurrently, { transaction: false }), ['CREATE UNIQUE']);
});

test('a table is as good as made in the step only when it was not there before, nor the whole that it is a part of', () => {
  const closed = 'ALTER TABLE a ENABLE ROW LEVEL SECURITY;';
  assert.deepEqual(rules(`CREATE TABLE IF NOT EXISTS a (b int);\n${closed}`), ['ALTER TABLE']);
  assert.deepEqual(rules(`CREATE TABLE a PARTITION OF c DEFAULT;\n${closed}`), ['ALTER TABLE']);
  assert.deepEqual(rules(`CREATE TABLE c (b int) PARTITION BY LIST (b);\nCREATE TABLE a PARTITION OF c DEFAULT;\n${closed}`), []);
  assert.deepEqual(rules(`-- CREATE TABLE a (b int);\n${closed}`), ['ALTER TABLE']);
});

test('the floor only goes up', () => {
  assert.equal(floorOf(floor), '20270101000001');
  assert.equal(floorOf('CREATE TABLE a (b int);'), null);
  assert.deepEqual(rules(floor, { before: '20261124000001' }), []);
  for (const before of ['20270101000001', '20270101000002']) {
    assert.deepEqual(rules(floor, { before }), ['schema_floor']);
    assert.equal(rules(`-- contract: nobody has read it since the release of May.\nDROP TABLE a;\n${floor}`, { before }).length, 2);
  }
  assert.deepEqual(rules(floor.replace(/'\d+'/, "'soon'")), ['schema_floor']);
});

test('what is not read says what it does', () => {
  const sql = 'DO $$ BEGIN DROP TABLE a; END $$;';
  assert.deepEqual(rules(sql), ['DO']);
  assert.deepEqual(rules(`-- locks: it makes the partitions of a table that is empty\n${sql}`), []);
  assert.deepEqual(rules(`-- contract: nobody has read it since the release of May.\n${sql}`), ['DO']);
  assert.deepEqual(rules(`-- contract: nobody has read it since the release of May.\n${sql}\n${floor}`), []);
});

const blocking = [
  'CREATE INDEX x ON a (b)', 'DROP INDEX x', 'ALTER TABLE a ADD COLUMN b timestamptz DEFAULT clock_timestamp()',
  'UPDATE a SET b = 1', 'DELETE FROM a', 'LOCK TABLE a', 'VACUUM FULL a',
];

test('what makes requests wait is refused, unless it says why nobody does', () => {
  for (const sql of blocking) {
    assert.ok(rules(`${sql};`).length > 0, sql);
    assert.deepEqual(rules(`-- locks: a table of a few rows an organization\n${sql};`), [], sql);
  }
});

test('SQL that is none is refused', () => {
  assert.ok(rules('ALTER TABEL a ADD COLUMN b text;').includes('syntax-error'));
});

test('statements are told apart, whatever stands in them', () => {
  const sql = "-- a; b\nSELECT ';';\n\nDO $x$ BEGIN; END $x$;\nUPDATE a\nSET b = 1;";
  assert.deepEqual(statements(sql).map(({ line, ends }) => [line, ends]), [[2, 2], [4, 4], [5, 6]]);
});
