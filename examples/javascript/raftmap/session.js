// A session: what makes it safe to send a write again (Raft dissertation, section 6.3).

/**
 * The servers keep the answers of a session from the lowest sequence on that its client still needs. So the bound is not on how
 * many writes are under way, but on how far they are apart.
 */
export class Session {
  /** Whether a server has said that it does not know it any more. */
  isForgotten = false;
  #id;
  #room;
  #next = 1;
  #unfinished = new Set(); // in the order in which they began
  #waiting = [];

  constructor(opened) {
    this.#id = opened.sessionId;
    this.#room = Math.max(1, opened.maxInFlight);
  }

  get #lowest() {
    const [lowest = this.#next] = this.#unfinished;
    return lowest;
  }

  /** The sequence of a new write. Waits while one that takes long holds back those that are far ahead of it. */
  async begin() {
    while (this.#next - this.#lowest >= this.#room) {
      await new Promise((resolve) => this.#waiting.push(resolve));
    }
    this.#unfinished.add(this.#next);
    return this.#next++;
  }

  /** What a write carries. Between two of its attempts only the acknowledgement moves. */
  tag(sequence) {
    return { sessionId: this.#id, sequence, acknowledgedBelow: this.#lowest };
  }

  /** Its answer, whatever it was, is not needed any more. */
  end(sequence) {
    this.#unfinished.delete(sequence);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
