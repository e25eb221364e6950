// The servers that the client knows, and which of them to ask.

import { ClusterService, MapService } from "./contract.js";
import { Next, judge } from "./failures.js";

// Milliseconds.
const SET_ASIDE = 1000; // how long a server that failed is asked last
const GREETING_HOLDS = 30_000; // after this the members are asked for again, though nothing failed
const GREETING_TIMEOUT = 1000; // a server that is about to start takes connections, and answers nothing yet

const CHANNEL_OPTIONS = {
  // The library knows nothing of sessions: what is sent again is decided here alone.
  "grpc.enable_retries": 0,
  // An answer has up to 4 MiB and what goes around it; the library takes 4 MiB.
  "grpc.max_receive_message_length": 16 << 20,
  // A server that was restarted is found within a second, one that fell silent is given up after 14.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 4000,
};

/** One server, and the channel to it. */
class Server {
  greetedAt = -Infinity;
  asideUntil = -Infinity;
  #map;
  #cluster;

  constructor(address, credentials) {
    this.address = address;
    this.#map = new MapService(address, credentials, CHANNEL_OPTIONS);
    this.#cluster = new ClusterService(address, credentials, { ...CHANNEL_OPTIONS, channelOverride: this.#map.getChannel() });
  }

  /** Calls `Map.Put` or another method. */
  async call(method, request, until) {
    const [service, name] = method.split(".");
    const stub = service === "Map" ? this.#map : this.#cluster;
    const options = { deadline: Date.now() + Math.max(1, until - performance.now()) };
    try {
      if (name === "Scan") {
        const pages = [];
        for await (const page of stub.Scan(request, options)) pages.push(page);
        return pages;
      }
      return await new Promise((resolve, reject) => {
        stub[name](request, options, (error, answer) => (error ? reject(error) : resolve(answer)));
      });
    } catch (error) {
      throw judge(this.address, error);
    }
  }

  close() {
    this.#map.close();
  }
}

/** All of them. One that left the cluster stays known, and is asked in vain now and then: this is an example. */
export class Cluster {
  #servers;
  #credentials;
  #discover;
  #leader;
  #turn;
  #term = 0n;
  #membershipIndex = 0n;
  #failedAt = -Infinity;

  constructor(endpoints, credentials, { discover }) {
    if (endpoints.length === 0) throw new Error("no endpoint was given: name at least one server as host:port");
    this.#credentials = credentials;
    this.#discover = discover;
    this.#servers = new Map(endpoints.map((address) => [address, new Server(address, credentials)]));
    this.#turn = Math.floor(Math.random() * endpoints.length);
  }

  /**
   * One attempt, at the leader if it is known, else at the next server in turn, which passes it on.
   *
   * A server is greeted before it is asked, with a question that changes nothing. So it is certain that a write never left if
   * there is no connection, which the status of a call does not tell; and the answer says who leads, and who the members are.
   */
  async ask(method, request, until) {
    let server = this.#pick();
    try {
      while (!this.#isGreeted(server)) {
        await this.#greet(server, until);
        server = this.#pick();
      }
      return await server.call(method, request, until);
    } catch (failed) {
      this.#learn(server, failed);
      throw failed;
    }
  }

  #pick() {
    const isAside = (server) => server.asideUntil > performance.now();
    if (this.#leader && !isAside(this.#leader)) return this.#leader;
    const servers = [...this.#servers.values()];
    const start = ++this.#turn % servers.length;
    const inTurn = [...servers.slice(start), ...servers.slice(0, start)];
    return inTurn.find((server) => !isAside(server)) ?? inTurn[0];
  }

  /** Since anything failed, and not too long ago. */
  #isGreeted(server) {
    return server.greetedAt > Math.max(this.#failedAt, performance.now() - GREETING_HOLDS);
  }

  async #greet(server, until) {
    const began = performance.now();
    let known;
    try {
      known = await server.call("Cluster.Members", {}, Math.min(until, began + GREETING_TIMEOUT));
    } catch (failed) {
      failed.maybeApplied = false;
      throw failed;
    }
    server.greetedAt = began;
    if (this.#discover && BigInt(known.membershipIndex) >= this.#membershipIndex) {
      this.#membershipIndex = BigInt(known.membershipIndex);
      for (const { clientAddress } of known.members) {
        if (clientAddress && !this.#servers.has(clientAddress)) {
          this.#servers.set(clientAddress, new Server(clientAddress, this.#credentials));
        }
      }
    }
    const term = BigInt(known.term);
    const leader = known.members.find((member) => member.leader)?.clientAddress;
    // Of two answers of one term, one may be from before its leader was elected.
    if (term > this.#term || (term === this.#term && leader)) this.#leader = this.#servers.get(leader);
    if (term > this.#term) this.#term = term;
  }

  /** Where to go after an attempt that failed. */
  #learn(server, failed) {
    if (failed.next !== Next.ELSEWHERE) return;
    this.#failedAt = performance.now();
    server.asideUntil = this.#failedAt + SET_ASIDE;
    if (this.#leader === server) this.#leader = undefined;
    if (!this.#leader && failed.leader !== server.address) this.#leader = this.#servers.get(failed.leader);
  }

  close() {
    for (const server of this.#servers.values()) server.close();
  }
}
