// The same conversations by SSE and by long-poll: what the script says of a WebSocket is told as its gateway would.
import assert from "node:assert/strict";
import { eventStream, longPoll } from "../client-fallback.js";
import { Http } from "./http.mjs";
import { Script, play, sorted } from "./script.mjs";
import { settled } from "./support.mjs";

/** How long commands are gathered, in ms: the script's clock stands meanwhile. */
const GATHER_MS = 100;

class OverHttp extends Script {
  constructor(client, steps) {
    super(client);
    this.clock.rounds = 6;
    const { setTimeout } = globalThis;
    // No answer comes so soon that the next poll would have to wait.
    let now = 0;
    Date.now = () => (now += 1000);
    globalThis.setTimeout = (then, ms) => setTimeout(then, ms === GATHER_MS ? 0 : ms);
    const refused = ({ send }) => send?.command === "subscribe";
    Object.assign(this.steps, {
      accept: (_, step) => this.begin(step),
      ignore: (_, step) => (this.begin(step), (this.link.sent = [])),
      refuse: (status, step) => {
        const { gateway } = step;
        this.begin(step);
        const request = this.request();
        this.link = null;
        status ? request.answer("refused", status, "text/plain", { gateway }) : request.fail();
      },
      // Hello and a refusal are one answer.
      send: (message, step) => {
        const later = steps.slice(steps.indexOf(step) + 1).find(refused)?.send;
        if (message.command === "hello" && later?.result === "error") this.link.hello = message;
        else return this.tell(message);
      },
      drop: () => {
        const request = this.request();
        this.link = null;
        request.fail();
      },
      abandoned: () => {
        assert.ok(this.link?.ended, "the client has not ended the connection");
        assert.ok(this.request().signal.aborted);
        this.link = null;
      },
    });
  }

  wire(link) {
    const { send, close } = super.wire(link);
    link.http = new Http();
    link.watched = new Set();
    const fetch = (...how) => {
      const { fetch: ask, requests } = link.http;
      const answer = ask(...how);
      const { bugs } = requests.at(-1).question;
      // Each is for all that is wanted, but for those that follow a refusal.
      if (!link.refused) assert.deepEqual(sorted(bugs ? bugs.split(",").map((bug) => (bug === "all" ? bug : +bug)) : []), sorted(link.watched));
      return answer;
    };
    const session = this.transport()(fetch)(link.url, link.on, link.token);
    return {
      send: (command) => {
        for (const bug of [command.bugs ?? []].flat())
          command.command === "subscribe" ? link.watched.add(bug) : link.watched.delete(bug);
        send(command);
        session.send(command);
      },
      close: () => (close(), session.close()),
    };
  }

  /** The request that runs. */
  request() {
    const { link } = this;
    while (link.http.requests.length) {
      link.request = link.http.next();
      link.question = link.request.question;
    }
    return link.request;
  }

  /** Refuses, and accepts what is asked for instead: the session as it was. */
  async refuse(error) {
    this.link.refused = true;
    this.request().answer({ error }, 400);
    await settled(6);
    this.tell({ command: "subscribe", result: "ok", cursor: null, replay: "complete" });
  }

  /** The verdict: the first one is the script's, the later ones are none over a WebSocket. */
  verdict(message) {
    const { link } = this;
    const replay = message.replay ?? (link.begun && link.question.cursor ? "complete" : undefined);
    link.begun = true;
    return replay;
  }

  /** Whether this is the reply that the running request waits for; several commands have one. */
  isAnswer({ command }) {
    return command === "subscribe" || command === "unsubscribe";
  }

  async run(step) {
    await this.clock.advance(0);
    // What is to happen at once has happened.
    if (step.advance_ms === 0) return;
    await super.run(step);
    await this.clock.advance(0);
  }
}

class OverStream extends OverHttp {
  transport() {
    return eventStream;
  }

  open(request) {
    if (!request.stream && !request.signal.aborted) request.open();
    return request;
  }

  tell(message) {
    const request = this.request();
    if (this.isAnswer(message)) {
      if (message.result === "error") return this.refuse(message.error);
      if (request.answered) return;
      request.answered = true;
      if (this.link.hello) this.open(request).say(this.link.hello);
      this.open(request).say({ ...message, command: "subscribe", replay: this.verdict(message) });
    } else {
      this.open(request).say(message);
      // As the gateway does, also for none.
      const isNone = message.command === "hello" && !this.link.question.bugs;
      if (isNone) request.say({ command: "subscribe", result: "ok", count: 0, cursor: message.cursor });
      if (isNone) this.link.begun = request.answered = true;
    }
  }
}

class OverPoll extends OverHttp {
  transport() {
    return longPoll;
  }

  tell(message) {
    const request = this.request();
    const { question } = this.link;
    const cursor = message.cursor ?? "unknown";
    const replay = question.cursor && "complete";
    // While the feed is paused, each answer says so.
    if (["feed", "heartbeat"].includes(message.command)) this.link.state = message.state;
    const { state } = this.link;
    if (message.command === "hello") {
      if (!question.bugs) request.answer({ changes: [], cursor });
    } else if (this.isAnswer(message)) {
      if (message.result === "error") return this.refuse(message.error);
      if (question.wait === "0") request.answer({ changes: [], replay: this.verdict(message), cursor });
    } else if (message.command === "update") {
      request.answer({ changes: [{ bug: message.bug, when: message.when }], replay, cursor, state });
    } else if (message.command === "gap")
      request.answer({ changes: [], replay: "gap", cursor, spread_ms: message.spread_ms });
    else if (message.command === "heartbeat") request.answer({ changes: [], replay, cursor, state });
    else if (message.command === "feed")
      request.answer({ changes: [], replay, cursor: question.cursor ?? cursor, state });
    else if (message.command === "goaway")
      request.answer({ changes: [], replay, cursor, retry_after_ms: message.retry_after_ms });
  }
}

const classic = "a gateway of 2014 has no such address";
const begins = "a stream begins within 8 s, or is given up";
const gathered = "commands that are sent together are one request: see fallback.test.mjs";
const goes = "with its goaway the session ends";
const together = "hello and the first subscribe are one answer";
const paced = "polls set the pace, not the script: see fallback.test.mjs";

const stream = {
  "connect-timeout": begins,
  "dead-link": begins,
  "gap-spread-unsubscribed": begins,
  "malformed-replies": begins,
  "null-cursor": "its delay is as long as commands are gathered",
  "too-many": gathered,
};
const poll = {
  "backoff-middle": together,
  "changes-of-mind-while-resuming": gathered,
  "dead-link": paced,
  "feed-paused-from-the-start": together,
  "gap-spread-longest": paced,
  "gap-spread-merged": paced,
  goaway: goes,
  "goaway-nonsense": goes,
  "goaway-without-close": goes,
  "heartbeat-asked-for": paced,
  "hello-and-subscribe": together,
  "hello-refused": together,
  "malformed-replies": together,
  "no-cursor-yet": paced,
  "null-cursor": paced,
  "resume-unanswered": together,
  "too-many": gathered,
};
const reason = (known) => (name) => (name.includes("classic") ? classic : known[name]);

play("sse, ", (client, steps) => new OverStream(client, steps), reason(stream));
play("long-poll, ", (client, steps) => new OverPoll(client, steps), reason(poll));
