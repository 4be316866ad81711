// What a migration may do while the release before it still runs on the same schema. squawk, which reads SQL as
// PostgreSQL does, finds what breaks or blocks; a few statements it has no rule for are found here.
//
// A statement that has to break older releases says why in a comment right above it, `-- contract: …`, and its step
// raises app.schema_floor(), so that deployment refuses those releases. One that only holds a lock says why nobody waits
// for it, `-- locks: …`.
import { spawnSync } from 'node:child_process';

// Of squawk's rules, those that are about the release before. The others are taste, or what `migrate` sets itself: a
// lock is waited for 3 s, a statement takes 15 minutes at the most.
const breaks = new Set([
  'adding-not-nullable-field', 'adding-required-field', 'ban-alter-domain-with-add-constraint', 'ban-drop-column',
  'ban-drop-constraint', 'ban-drop-database', 'ban-drop-default', 'ban-drop-function', 'ban-drop-not-null', 'ban-drop-schema',
  'ban-drop-sequence', 'ban-drop-table', 'ban-drop-type', 'ban-drop-view', 'ban-set-schema', 'ban-truncate-cascade',
  'changing-column-type', 'renaming-column', 'renaming-object', 'renaming-table', 'syntax-error',
]);
const blocks = new Set([
  'adding-field-with-default', 'adding-foreign-key-constraint', 'adding-serial-primary-key-field',
  'constraint-missing-not-valid', 'disallowed-unique-constraint',
  'require-concurrent-index-creation', 'require-concurrent-index-deletion', 'require-concurrent-partition-detach',
]);
const others = [
  [/^REVOKE\b/i, 'breaks', 'takes a right away that older releases use'],
  [/^TRUNCATE\b/i, 'breaks', 'deletes what older releases read'],
  [/^DROP\s+(POLICY|TRIGGER|RULE|MATERIALIZED)\b/i, 'breaks', 'drops what older releases depend on'],
  [/^ALTER\s+TABLE\b.*\b(DISABLE|NO\s+FORCE)\b/is, 'breaks', 'lets rows of other organizations be seen'],
  [/^ALTER\s+(TYPE|FUNCTION|PROCEDURE)\b.*\bRENAME\b/is, 'breaks', 'renames what older releases use'],
  [/^(UPDATE|DELETE|MERGE)\b/i, 'blocks', 'rewrites rows in one go: a job does it in batches'],
  [/^(LOCK|CLUSTER|REINDEX)\b|^VACUUM\s+\(?FULL/i, 'blocks', 'locks a table'],
];

/** Statements of a script, with the line each begins on; comments, strings and bodies of functions are blanks. */
export function statements(sql) {
  const blank = (text) => text.replaceAll(/[^\n]/g, ' ');
  const plain = sql.replaceAll(/--[^\n]*|\/\*[\s\S]*?\*\/|\$(\w*)\$[\s\S]*?\$\1\$|'(?:[^']|'')*'/g, blank);
  const found = [];
  let at = 0;
  for (const text of plain.split(';')) {
    const begin = at + text.search(/\S|$/);
    if (text.trim()) found.push({ text: text.trim(), line: plain.slice(0, begin).split('\n').length, ends: plain.slice(0, at + text.length).split('\n').length });
    at += text.length + 1;
  }
  return found;
}

/** The comment right above a line, in one. */
function above(lines, line) {
  const words = [];
  for (let at = line - 2; at >= 0 && /^\s*--/.test(lines[at]); at -= 1) words.unshift(lines[at].replace(/^\s*--\s?/, ''));
  return words.join(' ');
}

const reason = (comment, word) => new RegExp(`(?:^|\\s)${word}:\\s+(\\S.{14,})`).test(comment);

/** What is wrong with a step: [{ line, rule, says }]. `transaction` is false for a step that runs outside of one. */
export function lint(sql, { squawk = process.env.SQUAWK ?? 'squawk', transaction = true } = {}) {
  const words = ['--pg-version', '15', '--reporter', 'json', '--stdin-filepath', 'up.sql', ...(transaction ? ['--assume-in-transaction'] : [])];
  // A comment must not switch a rule off without a reason.
  const ran = spawnSync(squawk, words, { input: sql.replaceAll('squawk-ignore', 'squawk ignore'), encoding: 'utf8' });
  if (ran.error || !ran.stdout.trim().startsWith('[')) throw new Error(`squawk: ${ran.error ?? ran.stderr}`);
  const lines = sql.split('\n');
  const parts = statements(sql);
  const part = (line) => parts.find((one) => one.line <= line && line <= one.ends);
  const found = [];
  for (const one of JSON.parse(ran.stdout)) {
    const kind = breaks.has(one.rule_name) ? 'breaks' : blocks.has(one.rule_name) ? 'blocks' : null;
    if (kind) found.push({ line: part(one.line + 1)?.line ?? one.line + 1, kind, rule: one.rule_name, says: one.message });
  }
  for (const { text, line } of parts) {
    for (const [pattern, kind, says] of others) {
      // What was made in the same step may be closed to everybody in it.
      const object = text.match(/\bON\s+(?:FUNCTION\s+|TABLE\s+)?([\w.]+)/i)?.[1];
      const fresh = object && new RegExp(`CREATE\\s+(OR\\s+REPLACE\\s+)?(FUNCTION|TABLE|VIEW)\\s+${object.replace('.', '\\.')}\\b`, 'i').test(sql);
      if (pattern.test(text) && !(fresh && /^REVOKE/i.test(text))) found.push({ line, kind, rule: text.split(/\s+/).slice(0, 2).join(' '), says });
    }
  }
  const floor = parts.some(({ text }) => /^CREATE\s+OR\s+REPLACE\s+FUNCTION\s+app\.schema_floor\b/i.test(text));
  return found.flatMap(({ line, kind, rule, says }) => {
    const comment = above(lines, line);
    if (kind === 'blocks') return reason(comment, 'locks') ? [] : [{ line, rule, says: `${says} Say why nobody waits: -- locks: …` }];
    if (!reason(comment, 'contract')) return [{ line, rule, says: `${says} Older releases still run: expand now, contract five deployments later. If this is that later: -- contract: …` }];
    return floor ? [] : [{ line, rule, says: 'this step breaks older releases and does not replace app.schema_floor(), by which they are refused' }];
  });
}
