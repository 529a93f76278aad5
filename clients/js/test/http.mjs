// A network of the test's own: `fetch` writes down what is asked, and the test answers.
import assert from "node:assert/strict";

/** One request, and how it is answered. */
class Request {
  constructor(url, { method, body, headers, signal }) {
    this.url = new URL(url);
    Object.assign(this, { method, body, headers, signal });
    this.promise = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    signal.addEventListener("abort", () => this.fail(signal.reason));
  }

  /** What is asked for, without the bugs of the address. */
  get question() {
    return Object.fromEntries(new URLSearchParams(this.body ?? this.url.search));
  }

  /** `gateway`: whether the gateway's header is there. */
  answer(body, status = 200, type = "application/json", { gateway = false, ...more } = {}) {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const headers = { "content-type": type, ...(gateway ? { "Bugfeed-Version": "0.1.0" } : {}), ...more };
    this.resolve(new Response(status === 204 || status === 304 ? null : text, { status, headers }));
  }

  fail(error = new TypeError("fetch failed")) {
    this.reject(error);
    this.stream?.error(error);
    this.stream = null;
  }

  /** The answer is a stream, which begins now. */
  open() {
    const body = new ReadableStream({ start: (stream) => (this.stream = stream) });
    this.resolve(new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } }));
  }

  /** Bytes of the stream. Those of a request that was given up go nowhere. */
  write(text) {
    this.stream?.enqueue(typeof text === "string" ? new TextEncoder().encode(text) : text);
  }

  say(message) {
    this.write(`id: ${message.cursor ?? "unknown"}\ndata: ${JSON.stringify(message)}\n\n`);
  }

  end() {
    this.stream?.close();
    this.stream = null;
  }
}

export class Http {
  requests = [];

  constructor() {
    const { requests } = this;
    this.fetch = function (url, options) {
      assert.equal(this, undefined, "browsers refuse to be called as a method");
      const request = new Request(url, options);
      requests.push(request);
      return request.promise;
    };
  }

  /** The oldest request that was not looked at. */
  next() {
    const request = this.requests.shift();
    assert.ok(request, "nothing was asked for");
    return request;
  }
}
