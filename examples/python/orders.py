"""Takes orders 1 to N in a raftmap cluster, whatever happens to its servers meanwhile, and counts afterwards what is there.

Each order is one transaction: the order is put, and the counter of the worker that took it goes up, if it stands where that
worker left it. So an order that was taken twice, or half, would show in the counters.
"""

import argparse
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from raftmap import Client, NotApplied, OutcomeUnknown, absent, get, has_value, put

PATIENCE = 60.0  # seconds that one order may take


class Orders:
    """The orders of one run, under a prefix of their own."""

    def __init__(self, client: Client, pause: float) -> None:
        self._client, self._pause = client, pause
        self.prefix = f"orders/{secrets.token_hex(4)}/"
        self._lock = threading.Lock()
        self.acknowledged: dict[bytes, bytes] = {}
        self._last, self.gap = time.monotonic(), 0.0

    def take(self, worker: int, numbers: range) -> None:
        """Takes orders, one after the other."""
        counter = f"{self.prefix}taken-by/{worker}".encode()
        for taken, number in enumerate(numbers):
            key, value = f"{self.prefix}order/{number:08}".encode(), f"order {number} by worker {worker}".encode()
            self._take_one(counter, taken, key, value)
            with self._lock:
                self.acknowledged[key] = value
                now = time.monotonic()
                self._last, self.gap = now, max(self.gap, now - self._last)
            time.sleep(self._pause)

    def _take_one(self, counter: bytes, taken: int, key: bytes, value: bytes) -> None:
        condition = has_value(counter, str(taken).encode()) if taken else absent(counter)
        then = [put(key, value), put(counter, str(taken + 1).encode())]
        unknown = False
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                done = self._client.transact([condition], then, [get(counter)])
            except (NotApplied, OutcomeUnknown) as error:
                # The condition makes it safe to send it again as a new write, even if the first one comes late: only one of the
                # two finds the counter where this worker left it.
                unknown |= isinstance(error, OutcomeUnknown)
                if error.is_final or time.monotonic() >= deadline:
                    raise
                print(f"an order takes long: {error}", file=sys.stderr, flush=True)
                continue
            if done.succeeded:
                return
            counted = done.entries[0].value.decode() if done.entries[0] else "nothing"
            if not (unknown and counted == str(taken + 1)):
                raise RuntimeError(
                    f"{counter.decode()} says {counted}, and {taken} orders are acknowledged: one is lost, or was taken twice"
                )
            return

    def verify(self) -> bool:
        """Whether every acknowledged order is there, once."""
        entries = {entry.key: entry.value for entry in self._client.scan(self.prefix.encode(), timeout=PATIENCE)}
        counters = f"{self.prefix}taken-by/".encode()
        counted = sum(int(value) for key, value in entries.items() if key.startswith(counters))
        found = sum(entries.get(key) == value for key, value in self.acknowledged.items())
        acked = len(self.acknowledged)
        print(f"counted {counted}, longest gap {self.gap * 1000:.0f} ms")
        print(f"acked {acked}, found {found}, lost {acked - found}")
        return found == acked == counted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many orders to take")
    parser.add_argument("--workers", type=int, default=8, help="how many are taken at once")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="how long a worker rests after each order")
    options = parser.parse_args()
    with Client.from_environment() as client, ThreadPoolExecutor(options.workers) as pool:
        orders = Orders(client, options.pause_ms / 1000)
        print(f"taking {options.count} orders under {orders.prefix}", flush=True)
        shares = [range(first, options.count + 1, options.workers) for first in range(1, options.workers + 1)]
        workers = [pool.submit(orders.take, number, share) for number, share in enumerate(shares)]
        shown = 0
        while not all(worker.done() for worker in workers):
            time.sleep(0.1)
            if (acked := len(orders.acknowledged)) - shown >= options.count / 20:
                shown = acked
                print(f"acked {acked} of {options.count}", flush=True)
        for worker in workers:
            worker.result()
        return 0 if orders.verify() else 1


if __name__ == "__main__":
    sys.exit(main())
