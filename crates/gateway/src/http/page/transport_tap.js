// Listens in on what the client library and the gateway say to each other: what the page shows beyond what the library
// tells (version, round trip, heartbeats, what is catch-up and what is live), and what it asks beyond what the library
// asks (a catch-up by date). No clock and no socket of its own.
//
// Replies come in the order of their commands, so the first unanswered command of a name is the one that is answered.

export class TransportTap {
  /** What the update is that is being delivered: "live", "catchup", or "repeated" when the screen has it already. */
  kind = "live";
  version = null;
  /** By the clock `now`. */
  heartbeatAt = null;
  roundTripMs = null;
  isOpen = false;

  #inner;
  #now;
  #on;
  #link = null;
  /** Other ways have no order of commands: there a catch-up is taken to last until the next heartbeat. */
  #isSocket = true;
  #asked = [];
  /** Catch-ups between the answer to their subscribe and the end of what it brings. */
  #running = [];

  /**
   * @param inner the transport that carries the messages
   * @param now a clock in ms
   * @param on `opened()`; `shown()`: the entries that a catch-up by date may repeat, as a filter;
   *   `caughtUp(command, count)`: the end of a catch-up, and how many changes it brought
   */
  constructor(inner, now, on) {
    this.#inner = inner;
    this.#now = now;
    this.#on = on;
  }

  /** What the library is given as its transport. */
  transport = (url, on, token) => {
    const link = this.#inner(url, {
      open: () => {
        this.isOpen = link === this.#link;
        on.open();
        if (this.isOpen) this.#on.opened();
      },
      message: (text) => {
        if (link !== this.#link || this.#received(text)) on.message(text);
      },
      close: (why) => {
        this.#leave(link);
        on.close(why);
      },
    }, token);
    this.#link = link;
    this.#isSocket = link.name === "websocket";
    return {
      name: link.name,
      send: (command) => this.#send(command),
      close: () => {
        this.#leave(link);
        link.close();
      },
    };
  };

  /** Asks for a sign of life, to learn the round trip. One at a time: a slow line gets no slower. */
  ping() {
    if (this.isOpen && !this.#asked.some((asked) => asked.ping)) this.#send({ command: "version" }, { ours: true, ping: true });
  }

  /** Asks for the changes of bugs since a date; `then` gets the reply. */
  catchUp(bugs, since, then) {
    this.#send({ command: "subscribe", bugs, since }, { ours: true, then });
  }

  #leave(link) {
    if (link !== this.#link) return;
    Object.assign(this, { isOpen: false, heartbeatAt: null, roundTripMs: null, kind: "live" });
    this.#link = null;
    this.#asked = [];
    this.#running = [];
  }

  #send(command, about) {
    const asked = { ...about, command, at: this.#now() };
    this.#asked.push(asked);
    this.#link.send(command);
    // The protocol has no mark for the end of a catch-up. Asking for the list right behind it makes one: the answer
    // comes after the catch-up, because a connection's commands are answered in order.
    if (this.#isSocket && command.command === "subscribe" && (command.cursor || command.since)) {
      this.#send({ command: "subscriptions" }, { ours: true, fence: asked });
    }
  }

  /** Whether a message is the library's to see. */
  #received(text) {
    let message;
    try {
      message = JSON.parse(text) ?? {};
    } catch {
      return true;
    }
    const { command, bug, when } = message;
    if (command === "update") this.kind = this.#kindOf(bug, when);
    else if (command === "heartbeat") this.#beat();
    else return this.#answered(message);
    return true;
  }

  #beat() {
    this.heartbeatAt = this.#now();
    if (!this.#isSocket) for (const { asked } of this.#running) this.#ended(asked);
  }

  #kindOf(bug, when) {
    const running = this.#running.find(({ bugs }) => bugs.has(bug));
    if (!running) return "live";
    if (running.repeated(bug, when)) return "repeated";
    running.count += 1;
    return "catchup";
  }

  #answered(message) {
    const index = this.#asked.findIndex(({ command }) => command.command === message.command);
    if (index < 0) return true;
    const [asked] = this.#asked.splice(index, 1);
    const { bugs, since, cursor } = asked.command;
    if (asked.command.command === "hello") {
      this.heartbeatAt = this.#now();
      this.version = typeof message.version === "string" ? message.version.slice(0, 40) : null;
    }
    if (asked.ping || asked.command.command === "hello") this.roundTripMs = this.#now() - asked.at;
    if (asked.fence) this.#ended(asked.fence);
    if ((since || cursor) && message.result === "ok") {
      // Only a catch-up by date repeats: from a cursor comes what was not sent. Without a clear end nothing is left out,
      // or it might be something new.
      const repeated = since && this.#isSocket ? this.#on.shown() : () => false;
      this.#running.push({ asked, bugs: new Set(bugs), count: 0, repeated });
    }
    asked.then?.(message);
    return !asked.ours;
  }

  #ended(asked) {
    const ended = this.#running.find((running) => running.asked === asked);
    if (!ended) return;
    this.#running = this.#running.filter((running) => running !== ended);
    this.#on.caughtUp(asked.command, ended.count);
  }
}
