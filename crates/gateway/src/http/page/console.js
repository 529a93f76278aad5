// The protocol console, for people who write clients: a WebSocket of its own, commands as they are typed, and every frame
// both ways. It repairs nothing, sends what it is told, and shows what comes.

import { $, element, perFrame, setText } from "./dom.js";
import { clip, closeMeaning } from "./logic.js";

const MAX_LINES = 500;
const MAX_SHOWN = 4_000;
const MAX_HISTORY = 100;

/** Commands to begin with. `at` is what the page watches and where it is. */
const SAMPLES = {
  hello: () => ({ command: "hello", heartbeat: 30 }),
  subscribe: ({ bugs }) => ({ command: "subscribe", bugs }),
  resume: ({ bugs, cursor }) => ({ command: "subscribe", bugs, cursor }),
  since: ({ bugs, since }) => ({ command: "subscribe", bugs, since }),
  unsubscribe: ({ bugs }) => ({ command: "unsubscribe", bugs: bugs[0] }),
  subscriptions: () => ({ command: "subscriptions" }),
  version: () => ({ command: "version" }),
  "not JSON": () => "subscribe 1234",
  "no command": () => ({ bugs: [1234] }),
  "unknown command": () => ({ command: "nonsense" }),
  "bad bug": () => ({ command: "subscribe", bugs: ["12x"] }),
};

export class Console {
  #url;
  #at;
  #protocols;
  #socket = null;
  #waiting = [];
  /** Lines that are not on the screen yet. */
  #fresh = [];
  #history = [];
  #place = 0;

  /**
   * @param at what the page watches: `{ bugs, cursor, since }`, for the samples
   * @param protocols what a WebSocket offers; with a token, that is part of it
   */
  constructor(url, at, protocols) {
    this.#url = url;
    this.#at = at;
    this.#protocols = protocols;
    $("console-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    $("console-input").addEventListener("keydown", (event) => this.#key(event));
    $("console-connect").addEventListener("click", () => (this.#socket ? this.#socket.close(1000) : this.#connect()));
    $("console-binary").addEventListener("click", () => this.#send(new Uint8Array([1, 2, 3])));
    $("console-clear").addEventListener("click", () => {
      this.#fresh = [];
      $("console-log").replaceChildren();
      this.#show();
    });
    for (const button of document.querySelectorAll("[data-sample]")) {
      button.addEventListener("click", () => this.#insert(SAMPLES[button.dataset.sample](this.#at())));
    }
    this.#show();
  }

  #connect() {
    const socket = new WebSocket(this.#url, this.#protocols());
    this.#socket = socket;
    this.#log("event", `connecting to ${this.#url}`);
    socket.onopen = () => {
      this.#log("event", "open");
      for (const message of this.#waiting.splice(0)) this.#transmit(message);
      this.#show();
    };
    socket.onmessage = ({ data }) => this.#log("in", typeof data === "string" ? data : "(binary)");
    socket.onclose = ({ code, reason }) => {
      this.#log("close", `close ${code}${reason && ` “${reason}”`}: ${closeMeaning(code)}`);
      this.#socket = null;
      this.#waiting = [];
      this.#show();
    };
    this.#show();
  }

  #submit() {
    const text = $("console-input").value;
    if (text === "") return;
    if (this.#history.at(-1) !== text) this.#history = [...this.#history, text].slice(-MAX_HISTORY);
    this.#place = this.#history.length;
    $("console-input").value = "";
    this.#send(text);
  }

  /** Connects first where there is no connection. */
  #send(message) {
    if (!this.#socket) this.#connect();
    if (this.#socket.readyState === WebSocket.OPEN) this.#transmit(message);
    else if (this.#waiting.length < MAX_HISTORY) this.#waiting.push(message);
  }

  #transmit(message) {
    this.#socket.send(message);
    this.#log("out", typeof message === "string" ? message : `(binary, ${message.length} bytes)`);
  }

  /** Enter sends, Shift+Enter is a new line; the arrows go through what was sent, from the first and the last line. */
  #key(event) {
    const input = $("console-input");
    const { key, shiftKey, isComposing } = event;
    if (isComposing || shiftKey) return;
    const before = input.value.slice(0, input.selectionStart);
    const after = input.value.slice(input.selectionEnd);
    if (key === "Enter") this.#submit();
    else if (key === "ArrowUp" && !before.includes("\n") && this.#place > 0) this.#recall(this.#place - 1);
    else if (key === "ArrowDown" && !after.includes("\n") && this.#place < this.#history.length) this.#recall(this.#place + 1);
    else return;
    event.preventDefault();
  }

  #recall(place) {
    this.#place = place;
    this.#insert(this.#history[place] ?? "");
  }

  #insert(message) {
    const input = $("console-input");
    input.value = typeof message === "string" ? message : JSON.stringify(message);
    input.focus();
    input.setSelectionRange(input.value.length, input.value.length);
  }

  #log(kind, text) {
    this.#fresh.push({ kind, text: clip(text, MAX_SHOWN), at: new Date() });
    if (this.#fresh.length > MAX_LINES) this.#fresh.shift();
    this.#draw();
  }

  #draw = perFrame(() => {
    const [log, scroll] = [$("console-log"), $("console-scroll")];
    const isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    log.append(...this.#fresh.splice(0).map(newLine));
    while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
    // Who scrolled back to read is not torn away.
    if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
    this.#show();
  });

  #show() {
    const state = this.#socket ? ["connecting", "open", "closing", "closed"][this.#socket.readyState] : "closed";
    const texts = { connecting: "Connecting…", open: "Open", closing: "Closing…", closed: "Closed" };
    $("console-state").dataset.state = state === "open" ? "open" : "idle";
    setText($("console-state-text"), texts[state]);
    setText($("console-connect"), this.#socket ? "Disconnect" : "Connect");
    $("console-empty").hidden = $("console-log").childElementCount > 0;
    $("console-clear").disabled = $("console-log").childElementCount === 0;
  }
}

function newLine({ kind, text, at }) {
  const line = element("li", "line");
  line.dataset.kind = kind;
  const time = element("time", "", `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`);
  time.dateTime = at.toISOString();
  const [mark, said] = { out: ["→", "sent"], in: ["←", "received"], close: ["×", "closed"], event: ["·", "event"] }[kind];
  const arrow = element("span", "arrow", mark);
  arrow.setAttribute("aria-hidden", "true");
  line.append(time, arrow, element("span", "unseen", said), element("code", "", text));
  return line;
}
