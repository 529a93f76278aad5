// Old WebSocket libraries behind one small face: each is used as its own documentation shows it, and not changed.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** What a client has received, to be waited for. */
class Connection {
  messages = [];
  errors = [];
  closed = new Promise((resolve) => (this.onClosed = resolve));

  push(text) {
    this.messages.push(text);
    this.wake?.();
  }

  /** The next message; the connection's errors and end where there is none. */
  async next() {
    let over;
    this.closed.then((code) => {
      over = code;
      this.wake?.();
    });
    while (this.messages.length === 0) {
      await new Promise((resolve) => {
        this.wake = resolve;
        if (over !== undefined) resolve();
      });
      if (over !== undefined && this.messages.length === 0) throw new Error(`closed ${over} ${this.errors}`);
    }
    return JSON.parse(this.messages.shift());
  }

  async ask(text) {
    this.send(text);
    return this.next();
  }
}

/** `ws` and its kind: a WebSocket that emits. */
const emitter = (name, options) => (url) => {
  const socket = new (require(name))(url, options);
  const connection = new Connection();
  connection.send = (text) => socket.send(text);
  connection.close = () => socket.close();
  socket.on("message", (text) => connection.push(text));
  socket.on("close", (code) => connection.onClosed(code));
  return new Promise((resolve, reject) => {
    socket.on("error", (error) => {
      connection.errors.push(error.message ?? String(error));
      reject(error instanceof Error ? error : new Error(error));
    });
    socket.on("open", () => resolve(connection));
  });
};

/** `websocket`: a client that makes connections. */
const factory = (name, options) => (url) => {
  const client = new (require(name).client)(options);
  const connection = new Connection();
  return new Promise((resolve, reject) => {
    client.on("connectFailed", (error) => reject(error instanceof Error ? error : new Error(error)));
    client.on("connect", (made) => {
      connection.send = (text) => made.sendUTF(text);
      connection.close = () => made.close();
      made.on("message", ({ utf8Data }) => connection.push(utf8Data));
      made.on("error", (error) => connection.errors.push(String(error)));
      made.on("close", (code) => connection.onClosed(code));
      resolve(connection);
    });
    client.connect(url);
  });
};

/** `faye-websocket`: as in a browser. */
const browserlike = (name) => (url) => {
  const socket = new (require(name).Client)(url);
  const connection = new Connection();
  connection.send = (text) => socket.send(text);
  connection.close = () => socket.close();
  socket.onmessage = ({ data }) => connection.push(data);
  return new Promise((resolve, reject) => {
    socket.onerror = ({ message }) => connection.errors.push(message);
    socket.onclose = ({ code }) => {
      connection.onClosed(code);
      reject(new Error(`closed ${code}`));
    };
    socket.onopen = () => resolve(connection);
  });
};

export const libraries = {
  "ws 0.4": emitter("ws-0.4"),
  "ws 0.8": emitter("ws-0.8"),
  "ws 1.1": emitter("ws-1.1"),
  "ws 2.3": emitter("ws-2.3"),
  "ws 3.3": emitter("ws-3.3"),
  "websocket 1.0.8": factory("websocket-1.0.8"),
  "websocket 1.0.28": factory("websocket-1.0.28"),
  "faye-websocket 0.7": browserlike("faye-websocket-0.7"),
  "faye-websocket 0.11": browserlike("faye-websocket-0.11"),
};

/** Libraries told to speak the protocol of 2011, hybi-08 to 10. */
export const hybi8 = {
  "ws 0.8": emitter("ws-0.8", { protocolVersion: 8 }),
  "websocket 1.0.28": factory("websocket-1.0.28", { webSocketVersion: 8 }),
};
