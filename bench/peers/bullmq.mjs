// BullMQ on the Redis at 127.0.0.1:PORT: adds JOBS jobs in bulk, runs each by a function that returns at once, and
// prints {"seconds"} from the first addition to the last completed job. Usage: node bullmq.mjs PORT JOBS
import { Queue, Worker } from "bullmq";

const [port, jobs] = process.argv.slice(2).map(Number);
const BATCH = 1000; // as the jobs of one request on the other side
const ADDERS = 4; // as the clients there
const WORKERS = 4; // as the agents there
const CONCURRENCY = 250; // as the slots of each

const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const queue = new Queue("peer", { connection });
await queue.waitUntilReady();

let completed = 0;
let finish;
const finished = new Promise((resolve) => (finish = resolve));
const workers = Array.from({ length: WORKERS }, () => {
  const worker = new Worker("peer", async () => 0, { connection, concurrency: CONCURRENCY });
  worker.on("completed", () => ++completed === jobs && finish());
  return worker;
});
await Promise.all(workers.map((worker) => worker.waitUntilReady()));

const started = process.hrtime.bigint();
let left = jobs;
const add = async () => {
  while (left > 0) {
    const count = Math.min(BATCH, left);
    left -= count;
    await queue.addBulk(Array.from({ length: count }, () => ({ name: "job", data: { command: ["true"] } })));
  }
};
await Promise.all([...Array.from({ length: ADDERS }, add), finished]);
console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - started) / 1e9 }));
process.exit(0);
