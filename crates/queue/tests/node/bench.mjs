// BullMQ's side of `cargo xtask bench queue`; see examples/bench.rs for what the words mean.

import { createInterface } from 'node:readline';
import { Queue, Worker } from 'bullmq';

const BULK = 200;
const DATA = {
  sessionId: '01890000-0000-7000-9000-000000000001',
  organizationId: '01890000-0000-7000-8000-000000000001',
};
const JOB = { attempts: 5, backoff: { type: 'exponential', delay: 1000 } };
const KEEP = { removeOnComplete: { count: 1000 }, removeOnFail: { count: 5000 } };

const [what, url, name, number] = process.argv.slice(2);
const connection = { host: new URL(url).hostname, port: Number(new URL(url).port), maxRetriesPerRequest: null };
const input = createInterface({ input: process.stdin });
const line = new Promise((resolve) => input.once('line', resolve));
const end = new Promise((resolve) => input.once('close', resolve));

async function work(slots) {
  const worker = new Worker(name, async () => null, { connection, concurrency: slots, ...KEEP });
  await worker.waitUntilReady();
  console.log('ready');
  await end;
  await worker.close();
}

async function add(jobs) {
  const queue = new Queue(name, { connection, defaultJobOptions: JOB });
  await queue.waitUntilReady();
  console.log('ready');
  await line;
  for (let left = jobs; left > 0; left -= BULK) {
    await queue.addBulk(Array.from({ length: Math.min(left, BULK) }, () => ({ name: 'recalculate', data: DATA })));
  }
  await queue.close();
}

async function latency(samples) {
  let arrived;
  const worker = new Worker(name, async () => arrived(process.hrtime.bigint()), { connection, ...KEEP });
  const queue = new Queue(name, { connection, defaultJobOptions: JOB });
  await Promise.all([worker.waitUntilReady(), queue.waitUntilReady()]);
  const took = [];
  for (let sample = 0; sample < samples + 50; sample += 1) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const arrival = new Promise((resolve) => { arrived = resolve; });
    const begun = process.hrtime.bigint();
    await queue.add('recalculate', DATA);
    const microseconds = Number((await arrival) - begun) / 1000;
    if (sample >= 50) took.push(Math.max(microseconds, 0));
  }
  took.sort((a, b) => a - b);
  const at = (share) => Math.round(took[Math.min(Math.floor(took.length * share), took.length - 1)]);
  console.log(`${at(0.5)} ${at(0.99)}`);
  await worker.close();
  await queue.close();
}

await { work, add, latency }[what](Number(number));
process.exit(0);
