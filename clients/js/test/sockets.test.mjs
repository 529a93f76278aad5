// What becomes of a connection that fails in the ways in which connections do, with the WebSocket that this runtime has,
// and with `ws`: real sockets, and servers that misbehave. runtimes.test.mjs runs this with other versions of Node.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";
import { Bugfeed, webSocket } from "../bugfeed.js";

const ws = await import("ws").catch(() => null);
const classes = { "the runtime's": globalThis.WebSocket, "`ws`": ws?.WebSocket };

const accept = (key) => createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
const upgrade = (request, tail = "") => {
  const [, key] = /sec-websocket-key: (.*)\r/i.exec(request);
  const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
  return Buffer.concat([Buffer.from(`${head}Sec-WebSocket-Accept: ${accept(key)}\r\n\r\n`), Buffer.from(tail)]);
};
const answer = (status, headers, body) =>
  `HTTP/1.1 ${status} Answer\r\n${headers}content-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`;

/** What the server does with a handshake. */
const servers = {
  "a port where nobody listens": null,
  "an answer of a proxy": (socket) => socket.end(answer(502, "", "<h1>Bad Gateway</h1>")),
  "a page in the place of the gateway": (socket) => socket.end(answer(200, "", "Log in to this network")),
  "a connection that is cut in the handshake": (socket) => socket.resetAndDestroy(),
  "an end without an answer": (socket) => socket.end(),
  "no HTTP": (socket) => socket.end("220 mail.test ESMTP\r\n"),
  "a handshake that was not read": (socket, request) =>
    socket.write(upgrade(request).toString().replace("Accept: ", "Accept: A")),
  "a connection that is cut when it is open": (socket, request) => socket.end(upgrade(request)),
  "a connection that is reset when it is open": (socket, request) => {
    socket.write(upgrade(request));
    // With what the client says then.
    socket.once("data", () => socket.resetAndDestroy());
  },
  "a gateway that restarts": (socket, request) => socket.end(upgrade(request, [0x88, 0x02, 0x03, 0xf4])),
};

const serve = async (context, behave) => {
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", (request) => behave(socket, request.toString()));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  const close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  if (behave) context.after(close);
  else close();
  return `ws://127.0.0.1:${port}/`;
};

const next = (feed, type, wanted = () => true) =>
  new Promise((resolve) => {
    const listen = ({ detail }) => {
      if (!wanted(detail)) return;
      feed.removeEventListener(type, listen);
      resolve(detail);
    };
    feed.addEventListener(type, listen);
  });

const options = (Socket) => ({ skip: !Socket && "there is none", timeout: 60_000 });

for (const [name, Socket] of Object.entries(classes))
  for (const [what, behave] of Object.entries(servers))
    test(`${name} WebSocket, ${what}: told at once, and tried again`, options(Socket), async (context) => {
      const url = await serve(context, behave);
      const feed = new Bugfeed(url, { bugs: [1], transport: webSocket(Socket) });
      context.after(feed.close);
      for (let attempt = 0; attempt < 2; attempt++) {
        const { reason } = await next(feed, "state", ({ state }) => state === "waiting");
        // That is what the client says itself, after 15 s.
        assert.notEqual(reason, "silence");
      }
    });

for (const [name, Socket] of Object.entries(classes))
  test(`${name} WebSocket, a feed that is not there: the gateway's own word, and the end`, options(Socket), async (context) => {
    const word = JSON.stringify({ error: "There is no feed here. Feeds: /" });
    const headers = "Bugfeed-Version: 0.1.0\r\nContent-Type: application/json\r\n";
    const behave = (socket) => socket.end(answer(404, headers, word));
    const feed = new Bugfeed(await serve(context, behave), { bugs: [1], WebSocket: Socket });
    context.after(feed.close);
    const { final, status, message } = await next(feed, "error");
    assert.deepEqual([final, status], [true, 404]);
    assert.match(message, /There is no feed here\. Feeds: \/$/);
    assert.equal(feed.state, "closed");
  });
