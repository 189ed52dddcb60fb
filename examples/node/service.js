// The JobService of Spoolway, from the protos alone: nothing is generated, nothing of ours is installed.
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const protos = fileURLToPath(new URL("../../proto", import.meta.url));
const definition = protoLoader.loadSync("spoolway/v1/job_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { JobService } = grpc.loadPackageDefinition(definition).spoolway.v1;

// Calls that may be repeated are, for a while, where no server answers. SubmitJob is one of them only because
// a request_id is sent with it.
const repeated = ["SubmitJob", "GetResult", "GetJob", "RegisterBackend", "CompleteJob", "FailJob"];
const serviceConfig = {
  methodConfig: [
    {
      name: repeated.map((method) => ({ service: "spoolway.v1.JobService", method })),
      retryPolicy: {
        maxAttempts: 5,
        initialBackoff: "0.1s",
        maxBackoff: "2s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

/** A client of the service; `call.GetJob(request)` and so on return promises. */
export function connect({ address = process.env.SPOOLWAY_ADDRESS ?? "127.0.0.1:50061", user, token }) {
  const client = new JobService(address, grpc.credentials.createInsecure(), {
    "grpc.service_config": JSON.stringify(serviceConfig),
    // Under the 60 s after which many proxies cut what is silent.
    "grpc.keepalive_time_ms": 50_000,
    "grpc.max_receive_message_length": 32 * 1024 * 1024,
    // A new stream is to meet nothing half dead of the last one.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_reconnect_backoff_ms": 5_000,
  });
  const metadata = new grpc.Metadata();
  metadata.set("spoolway-user", user);
  if (token) metadata.set("authorization", `Bearer ${token}`);
  const call = new Proxy(
    {},
    {
      get: (_, method) => (request) =>
        promisify(client[method].bind(client))(request, metadata, { deadline: Date.now() + 30_000 }),
    },
  );
  return { client, metadata, call };
}

/** Whether to try again later: also what balancers make of a server that is gone (INTERNAL, UNKNOWN). */
export function isTransient(error) {
  const { UNAVAILABLE, UNKNOWN, INTERNAL, CANCELLED, DEADLINE_EXCEEDED } = grpc.status;
  return [UNAVAILABLE, UNKNOWN, INTERNAL, CANCELLED, DEADLINE_EXCEEDED].includes(error.code);
}
