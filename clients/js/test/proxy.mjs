// A proxy as they are: it knows no WebSocket, and may keep an answer until it has all of it.
import { once } from "node:events";
import { createServer, request } from "node:http";

export class Proxy {
  /** What came through, by the name of the way. */
  seen = [];
  #server;

  /**
   * @param {number} port of the gateway
   * @param {{refuse: number | "close" | "strip", keep?: boolean}} how how a WebSocket is answered (with a status, not
   *   at all, or by passing on the request without the wish for one), and whether answers are kept until they end
   */
  static async start(port, how) {
    const proxy = new Proxy();
    await proxy.#listen(port, how);
    return proxy;
  }

  async #listen(port, { refuse, keep = false }) {
    const forward = (incoming, answer) => {
      this.seen.push(new URL(incoming.url, "http://x").pathname);
      const { connection, upgrade, ...headers } = incoming.headers;
      const onward = { host: "127.0.0.1", port, method: incoming.method, path: incoming.url, headers };
      const outgoing = request(onward, async (response) => {
        const pieces = [];
        try {
          if (keep) for await (const piece of response) pieces.push(piece);
        } catch {
          return; // The client has gone.
        }
        answer.writeHead(response.statusCode, response.headers);
        // Headers wait for the body otherwise.
        answer.flushHeaders();
        if (keep) answer.end(Buffer.concat(pieces));
        else response.pipe(answer);
        response.on("error", () => answer.destroy());
      });
      outgoing.on("error", () => answer.destroy());
      answer.on("close", () => outgoing.destroy());
      incoming.pipe(outgoing);
    };
    this.#server = createServer(forward);
    this.#server.on("upgrade", (incoming, socket) => {
      this.seen.push("websocket");
      socket.on("error", () => {});
      if (refuse === "close") socket.destroy();
      else if (refuse === "strip") {
        const onward = request({ host: "127.0.0.1", port, path: incoming.url }, (response) => {
          socket.end(`HTTP/1.1 ${response.statusCode} As it is\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
          response.destroy();
        });
        onward.on("error", () => socket.destroy());
        onward.end();
      } else socket.end(`HTTP/1.1 ${refuse} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
    });
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${this.#server.address().port}/`;
  }

  close() {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
