// The client: its calls, and the attempts of each.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { Cluster } from "./cluster.js";
import { Failed, History, Next } from "./failures.js";
import { Session } from "./session.js";

const bytes = (data) => (typeof data === "string" ? Buffer.from(data) : data);

/** Conditions of a transaction. */
export const absent = (key) => ({ key: bytes(key), revision: "0" });
export const hasRevision = (key, revision) => ({ key: bytes(key), revision: String(revision) });
export const hasValue = (key, value) => ({ key: bytes(key), value: bytes(value) });

/** Operations of a transaction. */
export const put = (key, value) => ({ put: { key: bytes(key), value: bytes(value) } });
export const get = (key) => ({ get: bytes(key) });

const entryOf = (entry) => entry && { key: entry.key, value: entry.value, revision: BigInt(entry.revision) };

/** The first key that does not begin with `prefix`; empty if there is none. */
function endOf(prefix) {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 0xff) length -= 1;
  const end = Buffer.from(prefix.subarray(0, length));
  if (length > 0) end[length - 1] += 1;
  return end;
}

/** A client of one cluster. Keys and values are text or bytes going in, bytes coming out; revisions are BigInts. */
export class Client {
  #cluster;
  #timeoutMs;
  #attemptTimeoutMs;
  #session;

  /**
   * `endpoints` are servers to begin with (`host:port`), the others are learned from them unless `discover` says no.
   *
   * `ca`, and `certificate` with `key`, are PEM, as `raftmap certs` writes them; `token` is sent as `authorization: Bearer`.
   * Without `ca` there is no TLS, for servers that were started with `--insecure`. A call takes `timeoutMs` at most, its
   * attempts included, and turns to another server after `attemptTimeoutMs`.
   */
  constructor(endpoints, { ca, certificate, key, token, timeoutMs = 10_000, attemptTimeoutMs = 2000, discover = true } = {}) {
    if (token && !ca) throw new Error("a token would travel in the open: it takes TLS");
    let credentials = ca ? grpc.credentials.createSsl(ca, key, certificate) : grpc.credentials.createInsecure();
    if (token) {
      const bearer = new grpc.Metadata();
      bearer.set("authorization", `Bearer ${token}`);
      const call = grpc.credentials.createFromMetadataGenerator((_, done) => done(null, bearer));
      credentials = grpc.credentials.combineChannelCredentials(credentials, call);
    }
    this.#cluster = new Cluster(endpoints, credentials, { discover });
    this.#timeoutMs = timeoutMs;
    this.#attemptTimeoutMs = attemptTimeoutMs;
  }

  /**
   * With the variables that the command line takes: RAFTMAP_ENDPOINTS, and RAFTMAP_CERTS with RAFTMAP_AS, or a token in the place
   * of a certificate (RAFTMAP_TOKEN, RAFTMAP_TOKEN_FILE), or RAFTMAP_INSECURE=true.
   */
  static fromEnvironment(options = {}) {
    const { RAFTMAP_ENDPOINTS = "", RAFTMAP_INSECURE, RAFTMAP_CERTS, RAFTMAP_AS = "client" } = process.env;
    const { RAFTMAP_TOKEN, RAFTMAP_TOKEN_FILE } = process.env;
    const endpoints = RAFTMAP_ENDPOINTS.split(",").filter(Boolean);
    if (RAFTMAP_INSECURE === "true") return new Client(endpoints, options);
    if (!RAFTMAP_CERTS) {
      throw new Error("which certificates? Set RAFTMAP_CERTS, or RAFTMAP_INSECURE=true for servers without TLS");
    }
    const read = (name) => readFileSync(join(RAFTMAP_CERTS, name));
    const token = RAFTMAP_TOKEN_FILE ? readFileSync(RAFTMAP_TOKEN_FILE, "utf8").trim() : RAFTMAP_TOKEN;
    const identity = token ? { token } : { certificate: read(`${RAFTMAP_AS}.pem`), key: read(`${RAFTMAP_AS}.key`) };
    return new Client(endpoints, { ca: read("ca.pem"), ...identity, ...options });
  }

  /** The entry of `key`, if it is there: of every write that was acknowledged before. */
  async get(key, options) {
    const got = await this.#read("Map.Get", { keys: [bytes(key)] }, options);
    return entryOf(got.results[0].entry) ?? undefined;
  }

  /** Sets `key`; answers with the revision of the write. */
  async put(key, value, options) {
    const entries = [{ key: bytes(key), value: bytes(value) }];
    return BigInt((await this.#write("Map.Put", { entries }, options)).revision);
  }

  /** Removes `key`; whether it was there. */
  async delete(key, options) {
    return (await this.#write("Map.Delete", { keys: [bytes(key)] }, options)).deleted !== "0";
  }

  /** Sets `key` if it has `revision` (0: if it is absent). Answers with the new revision, or undefined if it was otherwise. */
  async compareAndSwap(key, revision, value, options) {
    const done = await this.transact([hasRevision(key, revision)], [put(key, value)], [], options);
    return done.succeeded ? done.revision : undefined;
  }

  /** Runs `then` if all conditions hold, else `otherwise`, in one step. `entries` are what the gets of that branch found. */
  async transact(conditions, then, otherwise = [], options = {}) {
    const done = await this.#write("Map.Txn", { conditions, then, otherwise }, options);
    const ran = done.succeeded ? then : otherwise;
    const entries = done.results.filter((_, place) => ran[place].get).map((result) => entryOf(result.entry) ?? undefined);
    return { succeeded: done.succeeded, revision: BigInt(done.revision), entries };
  }

  /** All entries whose keys begin with `prefix`, in order, at one revision. */
  async scan(prefix = "", { timeoutMs = this.#timeoutMs } = {}) {
    const start = bytes(prefix);
    const pages = await this.#read("Map.Scan", { start, end: endOf(start) }, { timeoutMs, attemptTimeoutMs: timeoutMs });
    return pages.flatMap((page) => page.entries.map(entryOf));
  }

  /** Who the members are, as one server sees it. */
  members(options) {
    return this.#read("Cluster.Members", {}, options);
  }

  close() {
    this.#cluster.close();
  }

  /** Asks until a server answers. A read may be sent as often as one likes. */
  async #read(method, request, { timeoutMs = this.#timeoutMs, attemptTimeoutMs } = {}) {
    const deadline = performance.now() + timeoutMs;
    const history = new History({ isRead: true });
    for (;;) {
      try {
        return await this.#attempt(method, request, deadline, attemptTimeoutMs);
      } catch (failed) {
        await this.#follow(failed, history, deadline);
      }
    }
  }

  /** Writes in a session, so that it is applied once, however often it is sent. */
  async #write(method, request, { timeoutMs = this.#timeoutMs } = {}) {
    const deadline = performance.now() + timeoutMs;
    const history = new History({ isRead: false });
    for (;;) {
      const session = await this.#currentSession(history, deadline);
      const sequence = await session.begin();
      try {
        for (let next; next !== Next.NEW_SESSION; ) {
          try {
            return await this.#attempt(method, { ...request, session: session.tag(sequence) }, deadline);
          } catch (failed) {
            session.isForgotten ||= failed.next === Next.NEW_SESSION;
            next = await this.#follow(failed, history, deadline);
          }
        }
      } finally {
        session.end(sequence);
      }
    }
  }

  #attempt(method, request, deadline, attemptTimeoutMs = this.#attemptTimeoutMs) {
    return this.#cluster.ask(method, request, Math.min(deadline, performance.now() + attemptTimeoutMs));
  }

  /** After a failed attempt: waits as long as is right and says how to go on, or ends the call. */
  async #follow(failed, history, deadline) {
    if (!(failed instanceof Failed)) throw failed;
    const next = history.record(failed);
    const pause = history.pause(failed);
    if (next === Next.END || performance.now() + pause >= deadline) throw history.error();
    await sleep(pause);
    return next;
  }

  /** The session, opened once for all who need it. */
  async #currentSession(history, deadline) {
    for (;;) {
      const opening = (this.#session ??= this.#attempt("Map.OpenSession", {}, deadline).then((opened) => new Session(opened)));
      try {
        const session = await opening;
        if (!session.isForgotten) return session;
        if (this.#session === opening) this.#session = undefined;
      } catch (failed) {
        if (this.#session === opening) this.#session = undefined;
        // A session that nobody knows of expires: it is as if it had not been opened.
        failed.maybeApplied = false;
        await this.#follow(failed, history, deadline);
      }
    }
  }
}
