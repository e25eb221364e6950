// Servers of a cluster as processes, for the tests of what browsers see.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const BINARY = process.env.RAFTMAP_BIN;
const IDS = [1, 2, 3];
const run = promisify(execFile);

/** How long a test waits for what must come. */
export const PATIENCE_MS = 60_000;

/** What `look` gives once it is something, asked again and again; an error of it counts as nothing. */
export async function until(what, look) {
  const deadline = Date.now() + PATIENCE_MS;
  for (let last = null; ; ) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`waited for it in vain: ${what}`, { cause: last });
    await sleep(50);
  }
}

/** Three servers with certificates, on ports of their own. */
export class Cluster {
  #folder;
  #ports;
  #options;
  #running = new Map();

  /** `serve(cluster)`: further options of `raftmap serve`. They run until the test `context` is over. */
  static async start(context, serve = () => []) {
    const cluster = new Cluster();
    cluster.#folder = await mkdtemp(join(tmpdir(), 'raftmap-browser-'));
    context.after(() => cluster.#end());
    cluster.#options = await serve(cluster);
    cluster.#ports = await freePorts(2 * IDS.length);
    const peer = (id) => `127.0.0.1:${cluster.#ports[id - 1 + IDS.length]}`;
    const members = IDS.flatMap((id) => ['--member', `${id}=${peer(id)},${cluster.address(id)}`]);
    const named = IDS.flatMap((id) => ['--server', `${id}=127.0.0.1`]);
    await run(BINARY, ['certs', '--cluster', 'browser', '--out', cluster.certs, ...named, '--client', 'app']);
    for (const id of IDS) {
      await run(BINARY, ['init', '--cluster', 'browser', '--data', cluster.file(`data-${id}`), '--id', `${id}`, ...members]);
    }
    await Promise.all(IDS.map((id) => cluster.start(id)));
    await cluster.leader();
    return cluster;
  }

  /** A file of a folder that is there as long as the cluster is. */
  file(name) {
    return join(this.#folder, name);
  }

  get certs() {
    return this.file('certs');
  }

  /** Where a server answers clients. */
  address(id) {
    return `127.0.0.1:${this.#ports[id - 1]}`;
  }

  get endpoints() {
    return IDS.map((id) => this.address(id)).join(',');
  }

  async start(id) {
    const ready = this.file(`ready-${id}`);
    await rm(ready, { force: true });
    const log = await open(this.file(`log-${id}`), 'a');
    const place = ['--data', this.file(`data-${id}`), '--certs', this.certs];
    const options = ['--ready-file', ready, '--stop-with-stdin', ...this.#options];
    const server = spawn(BINARY, ['serve', ...place, ...options], { stdio: ['pipe', log.fd, log.fd] });
    await log.close();
    this.#running.set(id, server);
    await until(`server ${id} is ready`, async () => (await readFile(ready)).length > 0);
  }

  /** Ends a server as a power cut would. */
  async kill(id) {
    const server = this.#running.get(id);
    this.#running.delete(id);
    server.kill('SIGKILL');
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit');
  }

  /** Makes a server fall silent, with all its connections open. */
  pause(id) {
    this.#running.get(id).kill('SIGSTOP');
  }

  resume(id) {
    this.#running.get(id).kill('SIGCONT');
  }

  /** What a command of raftmap prints, run as a client of this cluster. */
  async command(name, ...options) {
    const client = ['--endpoints', this.endpoints, '--certs', this.certs, '--as', 'app'];
    const { stdout } = await run(BINARY, [name, ...client, ...options]);
    return stdout;
  }

  /** The id of the server that leads, once one does. */
  leader() {
    return until('a server leads', async () => JSON.parse(await this.command('status', '--json')).leader);
  }


  async #end() {
    await Promise.all([...this.#running.keys()].map((id) => this.kill(id)));
    await rm(this.#folder, { recursive: true });
  }
}

/** Ports that nobody listens on. */
async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(listeners.map((listener) => once(listener, 'listening')));
  const ports = listeners.map((listener) => listener.address().port);
  await Promise.all(listeners.map((listener) => {
    listener.close();
    return once(listener, 'close');
  }));
  return ports;
}
