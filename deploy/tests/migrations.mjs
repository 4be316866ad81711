// What a migration may do while the release before it still runs on the same schema. squawk, which reads SQL as
// PostgreSQL does, finds what breaks or blocks; a few statements it has no rule for are found here.
//
// A statement that has to break older releases says why in a comment right above it, `-- contract: …`, and its step
// raises app.schema_floor(), so that deployment refuses those releases. One that only holds a lock says why nobody waits
// for it, `-- locks: …`. One whose inside is not read says one or the other.
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
  [/^TRUNCATE\b/i, 'breaks', 'deletes what older releases read'],
  [/^DROP\s+(POLICY|TRIGGER|RULE|MATERIALIZED)\b/i, 'breaks', 'drops what older releases depend on'],
  [/^ALTER\s+TABLE\b.*\b(DISABLE|NO\s+FORCE)\b/is, 'breaks', 'lets rows of other organizations be seen'],
  [/^ALTER\s+(TYPE|FUNCTION|PROCEDURE)\b.*\bRENAME\b/is, 'breaks', 'renames what older releases use'],
  [/^(UPDATE|DELETE|MERGE)\b/i, 'blocks', 'rewrites rows in one go: a job does it in batches'],
  [/^(LOCK|CLUSTER|REINDEX)\b|^VACUUM\s+\(?FULL/i, 'blocks', 'locks a table'],
  [/^DO\b/i, 'unread', 'runs what is not read here'],
];
// Of a table that is made in the same step, nobody is used to anything else.
const ofTablesInUse = [
  [/^REVOKE\b/i, 'breaks', 'takes a right away that older releases use'],
  // NOT VALID only spares the rows that exist: what is written from now on is checked.
  [/^ALTER\s+TABLE\b.*\bADD\s+(CONSTRAINT\s+\S+\s+)?(CHECK|UNIQUE|PRIMARY|EXCLUDE|FOREIGN)\b/is, 'breaks', 'rejects what older releases write'],
  [/^CREATE\s+UNIQUE\s+INDEX\b/i, 'breaks', 'rejects what older releases write'],
  [/^CREATE\s+(OR\s+REPLACE\s+)?(CONSTRAINT\s+)?(TRIGGER|RULE)\b/i, 'breaks', 'changes what becomes of what older releases write'],
  [/^ALTER\s+TABLE\b.*(?<!\bNO\s+)\b(ENABLE|FORCE)\s+ROW\b/is, 'breaks', 'hides rows from older releases'],
  [/^ALTER\s+POLICY\b/i, 'breaks', 'changes which rows older releases see and write'],
  [/^CREATE\s+POLICY\b.*\bAS\s+RESTRICTIVE\b/is, 'breaks', 'hides rows from older releases'],
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

/** What a statement is about: a table, or the function of a REVOKE. */
const about = (text) => text.match(/^ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?([\w."]+)/i)?.[1]
  ?? text.match(/\bON\s+(?:FUNCTION\s+|TABLE\s+)?(?:ONLY\s+)?([\w."]+)/i)?.[1];

/** What a statement makes, unless that may have been there before. */
const makes = (text) => text.match(/^CREATE\s+(?:OR\s+REPLACE\s+)?(?:UNLOGGED\s+)?(?:FUNCTION|TABLE|VIEW)\s+(?!IF\s+NOT\b)([\w."]+)/i)?.[1];

const plainly = (name) => name?.replaceAll('"', '').replace(/^public\./i, '').toLowerCase();

/** The floor that a step sets, or null. */
export function floorOf(sql) {
  const one = statements(sql).find(({ text }) => /^CREATE\s+(OR\s+REPLACE\s+)?FUNCTION\s+app\.schema_floor\b/i.test(text));
  return one ? (sql.split('\n').slice(one.line - 1, one.ends).join('\n').match(/'(\d{14})'/)?.[1] ?? '') : null;
}

/**
 * What is wrong with a step: [{ line, rule, says }]. `transaction` is false for a step that runs outside of one, `before` is
 * the floor that the steps before it set.
 */
export function lint(sql, { squawk = process.env.SQUAWK ?? 'squawk', transaction = true, before = '' } = {}) {
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
  const made = new Set();
  for (const { text } of parts) {
    // A part of a table that was there before gets what older releases write to the whole.
    const whole = plainly(text.match(/\bPARTITION\s+OF\s+([\w."]+)/i)?.[1]);
    const name = plainly(makes(text));
    if (name && (!whole || made.has(whole))) made.add(name);
  }
  for (const { text, line } of parts) {
    for (const [pattern, kind, says] of made.has(plainly(about(text))) ? others : [...others, ...ofTablesInUse]) {
      if (pattern.test(text)) found.push({ line, kind, rule: text.split(/\s+/).slice(0, 2).join(' '), says });
    }
  }
  const floor = floorOf(sql);
  const raised = floor !== null && floor > before;
  const wrong = floor === null || raised ? [] : [{ line: 1, rule: 'schema_floor', says: `the floor was ${before} and becomes ${floor || 'unreadable'}: it only goes up` }];
  return wrong.concat(found.flatMap(({ line, kind, rule, says }) => {
    const comment = above(lines, line);
    if (kind === 'unread' && !reason(comment, 'contract')) return reason(comment, 'locks') ? [] : [{ line, rule, says: `${says}. Say why it neither breaks older releases nor makes anybody wait: -- locks: …` }];
    if (kind === 'blocks') return reason(comment, 'locks') ? [] : [{ line, rule, says: `${says} Say why nobody waits: -- locks: …` }];
    if (!reason(comment, 'contract')) return [{ line, rule, says: `${says} Older releases still run: expand now, contract five deployments later. If this is that later: -- contract: …` }];
    return raised ? [] : [{ line, rule, says: 'this step breaks older releases and does not raise app.schema_floor(), by which they are refused' }];
  }));
}
