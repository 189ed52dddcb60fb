// Runs jobs of the backend `adder`, which adds numbers, until SIGTERM or Ctrl-C:  node spooler.js
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, isTransient } from "./service.js";

const BACKEND = process.env.SPOOLWAY_BACKEND ?? "adder";
const CONFIG = { description: "adds numbers", version: "1.0.0", display_name: "adder" };
const CONCURRENCY = 4;

/** What this spooler does; `signal` tells that the job is to stop. */
async function run(content, { signal, progress }) {
  if (!Array.isArray(content.numbers)) throw new Error('send {"numbers": [1, 2]}');
  progress("adding", 0.5);
  await sleep(content.milliseconds ?? 0, undefined, { signal });
  return { sum: content.numbers.reduce((sum, number) => sum + number, 0) };
}

const { client, metadata, call } = connect({ user: process.env.SPOOLWAY_USER ?? "robot" });
const instanceId = randomUUID();
const held = new Map(); // lease token -> { assignment, state, stop }; state: accepting, running, ending
const reports = new Map(); // sequence -> a report that is not confirmed yet
let sequence = 0;
let stream = null; // once welcomed
let draining = false;

function report(lease, update) {
  const { job, lease_token } = lease.assignment;
  const numbered = { sequence: ++sequence, job, lease_token, ...update };
  // Of progress only the newest counts: it is not worth to be sent again.
  if (!update.progress) reports.set(sequence, numbered);
  stream?.write({ updates: { updates: [numbered] } });
}

async function contentOf({ job, lease_token, content, content_bytes }) {
  if (content?.length || !content_bytes) return content;
  const parts = [];
  for await (const { chunk } of client.ReadContent({ job, lease_token }, metadata)) parts.push(chunk);
  return Buffer.concat(parts);
}

async function start(lease) {
  lease.state = "running";
  let end;
  try {
    const content = JSON.parse(await contentOf(lease.assignment));
    const progress = (stage, fraction) => report(lease, { progress: { stage, fraction } });
    const result = await run(content, { signal: lease.stop.signal, progress });
    end = { complete: { result: Buffer.from(JSON.stringify(result)) } };
  } catch (error) {
    end = lease.stop.signal.aborted ? { cancelled: {} } : { fail: { message: String(error.stack ?? error) } };
  }
  lease.state = "ending";
  if (held.has(lease.assignment.lease_token)) report(lease, end);
}

function confirmed({ sequence: answered, error }) {
  const update = reports.get(answered);
  if (!update) return;
  if (error?.code === 14) {
    // UNAVAILABLE: the same again, later.
    setTimeout(() => stream?.write({ updates: { updates: [update] } }), 1000);
    return;
  }
  reports.delete(answered);
  const lease = held.get(update.lease_token);
  if (!lease) return;
  // Only now, with the accept confirmed, is the job surely ours.
  if (update.accept && !error) start(lease);
  else forget(update.lease_token);
}

function forget(token) {
  held.get(token)?.stop.abort();
  held.delete(token);
  for (const [number, update] of reports) if (update.lease_token === token) reports.delete(number);
}

/** One stream, from hello to its end. */
async function work() {
  const opened = client.StreamNextJobs(metadata);
  let beat;
  let milliseconds = 10_000;
  const beats = ({ seconds = 0, nanos = 0 }) => {
    milliseconds = seconds * 1000 + nanos / 1e6;
    clearInterval(beat);
    beat = setInterval(() => opened.write({ beat: { sequence: ++sequence } }), milliseconds);
  };
  const listing = [...held.values()].map(({ assignment }) => assignment);
  opened.write({
    hello: {
      spooler_id: "node-1",
      instance_id: instanceId,
      protocol: 1,
      backends: [BACKEND],
      max_message_bytes: 32 * 1024 * 1024,
      held: listing.map(({ job, lease_token }) => ({ job, lease_token })),
      sdk: "node-example/1",
    },
  });
  const onMessage = (message) => {
    if (message.welcome) {
      stream = opened;
      for (const { lease_token } of message.welcome.revoked ?? []) forget(lease_token);
      for (const update of reports.values()) opened.write({ updates: { updates: [update] } });
      if (draining) opened.write({ drain: { sequence: ++sequence } });
      else opened.write({ credit: { outstanding: CONCURRENCY } });
      beats(message.welcome.heartbeat_interval);
      console.error("connected");
    }
    for (const assignment of message.assign?.jobs ?? []) {
      const lease = { assignment, state: "accepting", stop: new AbortController() };
      held.set(assignment.lease_token, lease);
      report(lease, { accept: {} });
    }
    for (const confirm of message.confirms?.confirms ?? []) confirmed(confirm);
    if (message.cancel) held.get(message.cancel.lease_token)?.stop.abort();
    if (message.revoke) forget(message.revoke.lease_token);
    if (message.beat) beats(message.beat.heartbeat_interval);
    if (message.goaway || (draining && held.size === 0)) opened.end();
    if (message.goaway?.reason === "SESSION_REPLACED") draining = true;
  };
  opened.on("data", onMessage);
  try {
    await once(opened, "end");
  } finally {
    stream = null;
    clearInterval(beat);
    // Whatever comes after its end is of no interest.
    opened.on("error", () => {});
    opened.cancel();
  }
}

function drain() {
  draining = true;
  console.error("draining");
  stream?.write({ drain: { sequence: ++sequence } });
}

process.once("SIGTERM", drain);
process.once("SIGINT", drain);
for (let wait = 250; !draining || held.size > 0; wait = Math.min(wait * 2, 15_000)) {
  try {
    await call.RegisterBackend({ backend: BACKEND, config: Buffer.from(JSON.stringify(CONFIG)) });
    const since = Date.now();
    await work();
    if (Date.now() - since > 10_000) wait = 250;
  } catch (error) {
    if (!isTransient(error)) throw error;
    console.error(`disconnected: ${error.details ?? error}`);
  }
  if (!draining || held.size > 0) await sleep(wait * (0.5 + Math.random() / 2));
}
client.close();
console.error("ended");
