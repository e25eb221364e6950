// Takes orders 1 to N in a raftmap cluster, whatever happens to its servers meanwhile, and counts afterwards what is there.
//
// Each order is one transaction: the order is put, and the counter of the worker that took it goes up, if it stands where that worker
// left it. So an order that was taken twice, or half, would show in the counters.
//
//   node orders.js [--count N] [--workers N] [--pause-ms MS]

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Client, NotApplied, OutcomeUnknown, absent, get, hasValue, put } from "./raftmap/index.js";

const PATIENCE_MS = 60_000; // that one order may take

/** The orders of one run, under a prefix of their own. */
class Orders {
  prefix = `orders/${randomBytes(4).toString("hex")}/`;
  acknowledged = new Map();
  gapMs = 0;
  #last = performance.now();
  #client;
  #pauseMs;

  constructor(client, pauseMs) {
    this.#client = client;
    this.#pauseMs = pauseMs;
  }

  /** Takes orders, one after the other. */
  async take(worker, numbers) {
    const counter = `${this.prefix}taken-by/${worker}`;
    for (const [taken, number] of numbers.entries()) {
      const key = `${this.prefix}order/${String(number).padStart(8, "0")}`;
      const value = `order ${number} by worker ${worker}`;
      await this.#takeOne(counter, taken, key, value);
      this.acknowledged.set(key, value);
      const now = performance.now();
      this.gapMs = Math.max(this.gapMs, now - this.#last);
      this.#last = now;
      await sleep(this.#pauseMs);
    }
  }

  async #takeOne(counter, taken, key, value) {
    const condition = taken === 0 ? absent(counter) : hasValue(counter, String(taken));
    const then = [put(key, value), put(counter, String(taken + 1))];
    const deadline = performance.now() + PATIENCE_MS;
    let unknown = false;
    for (;;) {
      try {
        const done = await this.#client.transact([condition], then, [get(counter)]);
        if (done.succeeded) return;
        const counted = done.entries[0]?.value.toString() ?? "nothing";
        if (unknown && counted === String(taken + 1)) return;
        throw new Error(`${counter} says ${counted}, and ${taken} orders are acknowledged: one is lost, or was taken twice`);
      } catch (error) {
        // The condition makes it safe to send it again as a new write, even if the first one comes late: only one of the two
        // finds the counter where this worker left it.
        if (!(error instanceof NotApplied || error instanceof OutcomeUnknown)) throw error;
        unknown ||= error instanceof OutcomeUnknown;
        if (error.isFinal || performance.now() >= deadline) throw error;
        console.error(`an order takes long: ${error.message}`);
      }
    }
  }

  /** Whether every acknowledged order is there, once. */
  async verify() {
    const scanned = await this.#client.scan(this.prefix, { timeoutMs: PATIENCE_MS });
    const entries = new Map(scanned.map(({ key, value }) => [key.toString(), value.toString()]));
    let [found, counted] = [0, 0];
    for (const [key, value] of this.acknowledged) found += Number(entries.get(key) === value);
    for (const [key, value] of entries) {
      if (key.startsWith(`${this.prefix}taken-by/`)) counted += Number(value);
    }
    const acked = this.acknowledged.size;
    console.log(`counted ${counted}, longest gap ${this.gapMs.toFixed()} ms`);
    console.log(`acked ${acked}, found ${found}, lost ${acked - found}`);
    return found === acked && counted === acked;
  }
}

const { values: options } = parseArgs({
  options: {
    count: { type: "string", default: "2000" },
    workers: { type: "string", default: "8" },
    "pause-ms": { type: "string", default: "0" },
  },
});
const [count, workers, pauseMs] = [options.count, options.workers, options["pause-ms"]].map(Number);

const client = Client.fromEnvironment();
const orders = new Orders(client, pauseMs);
console.log(`taking ${count} orders under ${orders.prefix}`);
let shown = 0;
const progress = setInterval(() => {
  if (orders.acknowledged.size - shown < count / 20) return;
  shown = orders.acknowledged.size;
  console.log(`acked ${shown} of ${count}`);
}, 100);
try {
  const numbers = Array.from({ length: count }, (_, place) => place + 1);
  const share = (worker) => numbers.filter((number) => number % workers === worker);
  await Promise.all(Array.from({ length: workers }, (_, worker) => orders.take(worker, share(worker))));
  process.exitCode = (await orders.verify()) ? 0 : 1;
} finally {
  clearInterval(progress);
  client.close();
}
