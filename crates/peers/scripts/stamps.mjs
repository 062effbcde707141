// When what happened, for the harness: one line per event, `KIND ID NANOSECONDS` of CLOCK_MONOTONIC, appended to a file
// that all processes of a run share. Lines of one turn of the event loop go out together.
import fs from "node:fs";

const file = fs.openSync(process.env.PEERS_STAMPS, "a");
let lines = "";

export function stamp(kind, id) {
  if (lines === "") setImmediate(flush);
  lines += `${kind} ${id} ${process.hrtime.bigint()}\n`;
}

export function flush() {
  if (lines !== "") fs.writeSync(file, lines);
  lines = "";
}

// The way of submitting that the harness asks for: `WAY FIRST COUNT [PER_SECOND]`.
// `batch(ids)` and `single(id)` resolve when the peer has the tasks. Where a peer does not say when the end of a task is
// stored, `empty()` does for all of them.
export async function submit(batch, single, empty) {
  const [way, first, count, rate] = [process.argv[3], ...process.argv.slice(4).map(Number)];
  const submitters = 4;
  const batchTasks = 500;
  if (way === "rate") {
    const begun = performance.now();
    const sent = [];
    for (let n = 0; n < count; n++) {
      const due = begun + (n * 1000) / rate;
      const wait = due - performance.now();
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      stamp("Q", first + n);
      sent.push(single(first + n));
    }
    await Promise.all(sent);
    flush();
    return;
  }
  let next = first;
  const end = first + count;
  stamp("Q", first);
  const submitter = async () => {
    while (next < end) {
      const ids = [];
      const size = way === "batch" ? batchTasks : 1;
      while (next < end && ids.length < size) ids.push(next++);
      await (way === "batch" ? batch(ids) : single(ids[0]));
    }
  };
  await Promise.all(Array.from({ length: submitters }, submitter));
  if (empty) {
    while (!(await empty())) await new Promise((resolve) => setTimeout(resolve, 25));
    stamp("E", first);
  }
  flush();
}

// Runs until the harness says that it is enough.
export function untilTold(close) {
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.once(signal, async () => {
      await close();
      flush();
      process.exit(0);
    });
  }
}
