// graphile-worker: `graphile.mjs worker CONCURRENCY` or `graphile.mjs submit WAY FIRST COUNT [PER_SECOND]`.
import { makeWorkerUtils, run } from "graphile-worker";
import { stamp, submit, untilTold } from "./stamps.mjs";

const connectionString = process.env.PEERS_URL;

if (process.argv[2] === "worker") {
  const concurrentJobs = Number(process.argv[3]);
  const runner = await run({
    noHandleSignals: true,
    taskList: { noop: async (payload) => stamp("S", payload.id) },
    preset: {
      worker: {
        connectionString,
        concurrentJobs,
        maxPoolSize: concurrentJobs + 1,
        // What its documentation offers for throughput: jobs are fetched, and their ends written, many at a time.
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
  });
  // With batched ends this is said before PostgreSQL has them: see `empty` below.
  runner.events.on("job:complete", ({ job }) => stamp("D", job.payload.id));
  untilTold(() => runner.stop());
} else {
  const utils = await makeWorkerUtils({ connectionString });
  await utils.migrate();
  await submit(
    (ids) => utils.addJobs(ids.map((id) => ({ identifier: "noop", payload: { id } }))),
    (id) => utils.addJob("noop", { id }),
    async () => {
      const left = "select exists (select from graphile_worker._private_jobs) as any";
      return !(await utils.withPgClient((client) => client.query(left))).rows[0].any;
    },
  );
  await utils.release();
}
