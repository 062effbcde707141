// BullMQ: `bullmq.mjs worker CONCURRENCY` or `bullmq.mjs submit WAY FIRST COUNT [PER_SECOND]`.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { stamp, submit, untilTold } from "./stamps.mjs";

const connection = () => new Redis(process.env.PEERS_URL, { maxRetriesPerRequest: null });
const QUEUE = "noop";

if (process.argv[2] === "worker") {
  const worker = new Worker(QUEUE, async (job) => stamp("S", job.data.id), {
    connection: connection(),
    concurrency: Number(process.argv[3]),
  });
  // Said once Redis has taken the end of the job.
  worker.on("completed", (job) => stamp("D", job.data.id));
  worker.on("error", (error) => console.error(error));
  untilTold(() => worker.close(true));
} else {
  const shared = connection();
  // Finished jobs would fill Redis; some are kept, as people do.
  const queue = new Queue(QUEUE, { connection: shared, defaultJobOptions: { removeOnComplete: 1000 } });
  await queue.waitUntilReady();
  await submit(
    (ids) => queue.addBulk(ids.map((id) => ({ name: "noop", data: { id } }))),
    (id) => queue.add("noop", { id }),
  );
  await queue.close();
  shared.disconnect();
}
