// Submits a job, watches it to its end and prints its result:  node submit.js BACKEND '{"numbers": [1, 2]}'
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, isTransient } from "./service.js";

const [backend = "adder", content = '{"numbers": [1, 2, 3]}'] = process.argv.slice(2);
const { client, metadata, call } = connect({ user: process.env.SPOOLWAY_USER ?? "alice" });

/** Each change of a job, until it has ended; a stream that breaks goes on where it was. */
async function* watch(name) {
  let resumeToken = "";
  let revision = 0;
  for (;;) {
    const stream = client.WatchJobs({ names: [name], resume_token: resumeToken }, metadata);
    try {
      for await (const event of stream) {
        resumeToken = event.resume_token || resumeToken;
        for (const job of event.jobs ?? []) {
          if (job.revision <= revision) continue;
          revision = job.revision;
          yield job;
          if (job.end_time) return;
        }
      }
    } catch (error) {
      if (!isTransient(error)) throw error;
    } finally {
      stream.cancel();
    }
    await sleep(500);
  }
}

const request = { backend, content: Buffer.from(content), request_id: randomUUID() };
const { job } = await call.SubmitJob(request);
console.error(`submitted ${job.name}`);
let last = job;
for await (const seen of watch(job.name)) {
  last = seen;
  console.error(seen.transitions.at(-1).state.replace("JOB_STATE_", ""));
}
if (last.state === "JOB_STATE_DONE") {
  const { content: result } = await call.GetResult({ name: job.name });
  console.log(result.toString());
} else {
  console.error(last.error?.message ?? last.state);
  process.exitCode = 1;
}
client.close();
