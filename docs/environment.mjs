// docs/environment.md, from what the programs say they read and from .env.example:
//
//   cargo build && node docs/environment.mjs
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const programs = path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, 'target'), 'debug');

// Every variable that a program reads, with those that read it.
export function read() {
  const found = new Map();
  for (const [program, short] of [['api-gateway', 'api'], ['distance-worker', 'worker']]) {
    const told = execFileSync(path.join(programs, program), ['settings'], { env: { PATH: process.env.PATH }, encoding: 'utf8' });
    for (const line of told.trim().split('\n')) {
      const variable = JSON.parse(line);
      const known = found.get(variable.name) ?? { ...variable, by: [] };
      known.by.push(short);
      found.set(variable.name, known);
    }
  }
  // The older spelling of APP_ENV.
  found.delete('NODE_ENV');
  return found;
}

// The variables of .env.example, each with the heading it stands under and its comment; neighbours share one.
export function explained() {
  const found = [];
  let heading = '', comment = [], fresh = true;
  for (const line of fs.readFileSync(path.join(root, '.env.example'), 'utf8').split('\n')) {
    if (line.startsWith('# ----')) heading = line.replaceAll(/[#-]/g, '').trim();
    else if (line.startsWith('# ')) {
      if (fresh) comment = [];
      fresh = false;
      comment.push(line.slice(2));
    } else if (/^[A-Z0-9_]+=/.test(line)) {
      fresh = true;
      found.push({ heading, name: line.split('=')[0], comment: comment.join(' ') });
    }
  }
  return found;
}

export function page() {
  const programs = read();
  let text = `# Environment

Made by \`cargo build && node docs/environment.mjs\` from what \`api-gateway settings\` and \`distance-worker settings\` say they read, and from
\`.env.example\`; a test compares. A secret X may also come as X_FILE, the path of a file. Empty means unset.
`;
  let under;
  for (const { heading, name, comment } of explained()) {
    if (heading !== under) text += `\n## ${heading}\n\n| variable | read by | may be | default | required | |\n| --- | --- | --- | --- | --- | --- |\n`;
    under = heading;
    const one = programs.get(name);
    const cells = one
      ? [one.by.join(', '), one.secret ? 'secret' : one.rule, one.default, one.required === 'never' ? '' : one.required]
      : ['deployment', '', '', ''];
    text += `| \`${name}\` | ${cells.join(' | ')} | ${comment.replaceAll('|', '\\|')} |\n`;
  }
  return text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) fs.writeFileSync(path.join(root, 'docs/environment.md'), page());
