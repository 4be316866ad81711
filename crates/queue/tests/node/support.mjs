// Queues, workers and waiting, for the compatibility tests. REDIS_URL and WORKER (the program) come from outside.

import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

import { Queue, QueueEvents } from 'bullmq';
import { Redis } from 'ioredis';

const url = process.env.REDIS_URL;
const { hostname: host, port } = new URL(url);
export const connection = { host, port: Number(port), maxRetriesPerRequest: null };
export { sleep };

let queues = 0;

/** A queue of a test's own; everything it opens is closed with `end`. */
export class Field {
  constructor() {
    queues += 1;
    this.name = `compatibility-${process.pid}-${queues}`;
    this.queue = new Queue(this.name, { connection });
    this.redis = new Redis({ ...connection });
    this.workers = [];
    this.closing = [() => this.queue.close(), () => this.redis.quit()];
  }

  key(name) {
    return `bull:${this.name}:${name}`;
  }

  /** Starts a worker of ours and waits until it listens. */
  async worker({ slots = 1, leaseMs = 30_000 } = {}) {
    const there = (await this.queue.getWorkers()).length;
    const child = spawn(process.env.WORKER, [url, this.name, String(slots), String(leaseMs)], {
      stdio: ['pipe', 'inherit', 'inherit'],
    });
    this.workers.push(child);
    await eventually('the worker listens', async () => (await this.queue.getWorkers()).length > there);
    return child;
  }

  /** Kills a worker; returns when Redis has noticed, so that the next one can be told from it. */
  async kill(worker) {
    const left = (await this.queue.getWorkers()).length - 1;
    worker.kill('SIGKILL');
    await eventually('the worker is gone', async () => (await this.queue.getWorkers()).length === left);
  }

  /** QueueEvents that has begun to listen. */
  async events() {
    const events = new QueueEvents(this.name, { connection, lastEventId: '0-0' });
    this.closing.unshift(() => events.close());
    await events.waitUntilReady();
    return events;
  }

  /** What was announced so far: `{event, jobId, …}` each. */
  async announced(jobId) {
    const entries = await this.redis.xrange(this.key('events'), '-', '+');
    return entries
      .map(([, fields]) => Object.fromEntries(fields.map((_, at) => fields.slice(at, at + 2)).filter((_, at) => at % 2 === 0)))
      .filter((entry) => jobId === undefined || entry.jobId === jobId);
  }

  /** The names of what was announced of a job, with `prev` where there is one. */
  async story(jobId) {
    return (await this.announced(jobId)).map(({ event, prev }) => (prev ? `${event}<${prev}` : event));
  }

  /** The names of jobs in the order in which they started. */
  async order() {
    const jobs = await this.queue.getJobs(['completed', 'failed', 'active']);
    const names = new Map(jobs.map((job) => [job.id, job.name]));
    return (await this.announced()).filter(({ event }) => event === 'active').map(({ jobId }) => names.get(jobId));
  }

  counts() {
    return this.queue.getJobCounts();
  }

  async completed(count) {
    await eventually(`${count} jobs are completed`, async () => (await this.counts()).completed === count);
  }

  state(jobId, expected) {
    return eventually(`job ${jobId} is ${expected}`, async () => (await this.queue.getJobState(jobId)) === expected);
  }

  async end() {
    for (const worker of this.workers) {
      if (worker.exitCode === null && worker.signalCode === null) {
        const gone = new Promise((resolve) => worker.once('exit', resolve));
        worker.stdin.end();
        await gone;
      }
    }
    for (const close of this.closing) await close();
  }
}

/** Runs a test on a field of its own. */
export function on(doing) {
  return async (context) => {
    const field = new Field();
    try {
      await doing(field, context);
    } finally {
      await field.end();
    }
  };
}

/** Waits until something is so. */
export async function eventually(what, isSo) {
  const deadline = Date.now() + 30_000;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`not within 30 s: ${what}`);
    await sleep(10);
  }
}
