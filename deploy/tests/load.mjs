// Constant load through the edge: kept connections, POSTs, slow clients, event streams. Counts what was lost.
//
//   node load.mjs --url https://host:port --connect 127.0.0.1 --seconds N --connections N [--token T --session S] [--streams N]
//
// Stops at SIGTERM or after N seconds and prints one JSON object: sent, failed, worst_ms, by slot, by status, streams.
import https from 'node:https';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: {
  url: { type: 'string' }, connect: { type: 'string', default: '127.0.0.1' }, seconds: { type: 'string', default: '3600' },
  connections: { type: 'string', default: '32' }, fresh: { type: 'string', default: '4' }, streams: { type: 'string', default: '0' },
  token: { type: 'string', default: '' }, admin: { type: 'string', default: '' }, session: { type: 'string', default: '' },
} });
const target = new URL(values.url);
const common = { host: values.connect, port: target.port || 443, servername: target.hostname, rejectUnauthorized: false };
const result = { sent: 0, failed: 0, worst_ms: 0, accepted_points: 0, statuses: {}, slots: {}, failures: [], streams: { opened: 0, ended: 0, failed: 0, worst_gap_ms: 0 } };
let running = true;

function once(agent, method, path, body, headers = {}) {
  const started = performance.now();
  return new Promise((resolve) => {
    result.sent += 1;
    let done = false;
    const end = (problem, response) => {
      if (done) return;
      done = true;
      const took = performance.now() - started;
      result.worst_ms = Math.max(result.worst_ms, took);
      if (problem) {
        result.failed += 1;
        if (result.failures.length < 20) result.failures.push(`${new Date().toISOString()} ${method} ${path} ${problem}`);
      }
      resolve(response);
    };
    const sent = https.request({ ...common, agent, method, path, headers: { host: target.host, ...headers } }, (response) => {
      result.statuses[response.statusCode] = (result.statuses[response.statusCode] ?? 0) + 1;
      const slot = response.headers['x-slot'];
      if (slot) result.slots[slot] = (result.slots[slot] ?? 0) + 1;
      response.on('data', () => {});
      response.on('aborted', () => end('cut off'));
      response.on('end', () => end(response.statusCode >= 500 || response.statusCode === 429 ? `status ${response.statusCode}` : '', response));
    });
    sent.on('error', (error) => end(error.code ?? error.message));
    sent.setTimeout(30_000, () => sent.destroy(new Error('no answer in 30 s')));
    sent.end(body);
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let place = 0;
async function worker(agent, number) {
  const bearer = values.token ? { authorization: `Bearer ${values.token}` } : {};
  for (let round = 0; running; round += 1) {
    if (values.session && round % 4 === 0) {
      place += 1;
      const at = new Date(Date.now() - 1).toISOString().replace('Z', `${String(place % 1000).padStart(3, '0')}Z`);
      const body = JSON.stringify({ session_id: values.session, latitude: 48 + place / 1e6, longitude: 11, accuracy: 5, recorded_at: at });
      const answer = await once(agent, 'POST', '/locations', body, { ...bearer, 'content-type': 'application/json' });
      if (answer?.statusCode === 201) result.accepted_points += 1;
    } else if (values.token && round % 4 === 1) {
      await once(agent, 'GET', '/auth/me', undefined, bearer);
    } else {
      await once(agent, 'GET', '/health');
    }
    await pause(number % 4 === 0 ? 50 : 5);
  }
}

// A browser's event stream: opens again whenever it ends, and notes how long it was without one.
async function stream() {
  let lost = 0;
  while (running) {
    await new Promise((resolve) => {
      const sent = https.get({ ...common, agent: false, path: '/admin/events', headers: { host: target.host, authorization: `Bearer ${values.admin}` } }, (response) => {
        if (response.statusCode !== 200) { result.streams.failed += 1; response.resume(); return void response.on('end', resolve); }
        result.streams.opened += 1;
        if (lost) result.streams.worst_gap_ms = Math.max(result.streams.worst_gap_ms, performance.now() - lost);
        response.on('data', () => {});
        response.on('end', () => { result.streams.ended += 1; lost = performance.now(); resolve(); });
        response.on('error', () => { result.streams.failed += 1; lost = performance.now(); resolve(); });
      });
      sent.on('error', resolve);
    });
    await pause(100);
  }
}

const kept = new https.Agent({ keepAlive: true, maxSockets: Number(values.connections) });
const work = [];
for (let number = 0; number < Number(values.connections); number += 1) work.push(worker(kept, number));
for (let number = 0; number < Number(values.fresh); number += 1) work.push(worker(false, 4));
for (let number = 0; number < Number(values.streams); number += 1) stream();
const stop = () => { running = false; };
process.on('SIGTERM', stop);
setTimeout(stop, Number(values.seconds) * 1000).unref();
await Promise.all(work);
result.worst_ms = Math.round(result.worst_ms);
result.streams.worst_gap_ms = Math.round(result.streams.worst_gap_ms);
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
