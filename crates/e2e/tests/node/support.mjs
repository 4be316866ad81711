// The product as its clients find it. API_URL, ADMIN, OTHER_ADMIN and PASSWORD come from outside.

import { createClient } from '@supabase/supabase-js';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';

export const url = process.env.API_URL;
export const password = process.env.PASSWORD;
export const admins = [process.env.ADMIN, process.env.OTHER_ADMIN];
export { sleep };

/** Waits until something is so; what it answered then. */
export async function until(what, isSo) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const answer = await isSo();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`not within 60 s: ${what}`);
    await sleep(20);
  }
}

/** A client as a page makes it, except that Node.js before 22 has no WebSocket of its own. */
export function client(realtime = {}) {
  return createClient(url, 'public-anon-key', {
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { transport: WebSocket, ...realtime },
  });
}

/** Signs somebody in; answers the client. */
export async function signedIn(email, realtime) {
  const signing = client(realtime);
  const { data, error } = await signing.auth.signInWithPassword({ email, password });
  if (error) throw error;
  signing.user = data.user;
  return signing;
}

/** Calls the product's own API as somebody who is signed in. */
export async function call(person, method, path, body) {
  const { data } = await person.auth.getSession();
  const answer = await fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${data.session.access_token}`, 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const reply = await answer.json();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(reply)}`);
  return reply.data;
}

let people = 0;

/** Hires somebody and signs them in. */
export async function employee(admin, name, realtime) {
  people += 1;
  const email = `${name.toLowerCase()}.${people}.${process.pid}@people.example`;
  const hired = await call(admin, 'POST', '/admin/employees', { name, email, password });
  const person = await signedIn(email, realtime);
  person.employee = hired.id;
  return person;
}

/** A fix of now. */
export function fix(session) {
  return { session_id: session, latitude: 45.5, longitude: 13.25, accuracy: 5, recorded_at: new Date().toISOString() };
}
