// Every migration leaves the release before it working, or says why it need not.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { lint, statements } from './migrations.mjs';

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../migrations');
// No release is older than the steps named before this day: they may do what they like.
const firstRelease = '2026-11-26';
const rules = (sql, options) => lint(sql, options).map((one) => one.rule);
const floor = "CREATE OR REPLACE FUNCTION app.schema_floor() RETURNS text LANGUAGE sql IMMUTABLE RETURN '20270101000001';\n";

test('every step leaves the release before it working', () => {
  const steps = fs.readdirSync(folder).filter((name) => fs.existsSync(path.join(folder, name, 'up.sql')));
  assert.ok(steps.length > 10);
  for (const name of steps.filter((step) => step >= firstRelease)) {
    const about = path.join(folder, name, 'metadata.toml');
    const transaction = !(fs.existsSync(about) && /^run_in_transaction\s*=\s*false/m.test(fs.readFileSync(about, 'utf8')));
    assert.deepEqual(lint(fs.readFileSync(path.join(folder, name, 'up.sql'), 'utf8'), { transaction }), [], `${name}/up.sql`);
  }
});

test('what only adds passes', () => {
  for (const sql of [
    'CREATE TABLE a (id uuid PRIMARY KEY, b text NOT NULL);\nCREATE INDEX a_b ON a (b);',
    'ALTER TABLE sessions ADD COLUMN note text;',
    "ALTER TABLE sessions ADD COLUMN kind text NOT NULL DEFAULT 'x';",
    'ALTER TABLE sessions ADD CONSTRAINT positive CHECK (km >= 0) NOT VALID;',
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

const blocking = [
  'CREATE INDEX x ON a (b)', 'DROP INDEX x', 'ALTER TABLE a ADD CONSTRAINT c CHECK (b > 0)', 'ALTER TABLE a ADD UNIQUE (b)',
  'ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d (e)', 'ALTER TABLE a ADD COLUMN b timestamptz DEFAULT clock_timestamp()',
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
