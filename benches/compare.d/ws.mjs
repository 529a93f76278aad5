// A push gateway as one writes it on Node with the library ws. Clients speak bugfeed's
// classic protocol. The publisher sends lines, `BUG UPDATE`, over plain TCP, which costs less than HTTP or a broker; an
// empty line is answered by `ok`. Nothing is kept: who was away has missed what came.
import net from "node:net";
import { WebSocketServer } from "ws";

const [port, publish] = process.argv.slice(2).map(Number);
const LIMIT = 16 * 1024 * 1024; // Unsent bytes after which a slow client is cut.
const watchers = new Map(); // Bug → its watchers.

function command(data) {
    let name, bugs;
    try {
        ({ command: name, bugs } = JSON.parse(data));
        if (name !== "subscribe" || !bugs.every(Number.isSafeInteger)) throw new Error("no such command");
    } catch (error) {
        return this.send(JSON.stringify({ result: "error", error: error.message }));
    }
    for (const bug of bugs) {
        let all = watchers.get(bug);
        if (!all) watchers.set(bug, (all = new Set()));
        all.add(this);
        this.bugs.push(bug);
    }
    this.send(JSON.stringify({ command: "subscribe", result: "ok", bugs }));
}

function gone() {
    for (const bug of this.bugs) {
        const all = watchers.get(bug);
        if (all?.delete(this) && all.size === 0) watchers.delete(bug);
    }
}

// Compression is off unless asked for, and a Buffer is sent without being encoded again for each client.
function deliver(bug, update) {
    for (const client of watchers.get(bug) ?? []) {
        if (client.bufferedAmount > LIMIT) client.terminate();
        else client.send(update, { binary: false });
    }
}

const clients = new WebSocketServer({ host: "127.0.0.1", port, backlog: 4096, clientTracking: false });
clients.on("connection", (client) => {
    client.bugs = [];
    client.on("message", command).on("close", gone).on("error", client.terminate);
});

net.createServer((publisher) => {
    let rest = Buffer.alloc(0);
    publisher.on("data", (chunk) => {
        const bytes = rest.length ? Buffer.concat([rest, chunk]) : chunk;
        let from = 0;
        for (let end; (end = bytes.indexOf(10, from)) >= 0; from = end + 1) {
            const space = bytes.indexOf(32, from);
            if (end === from) publisher.write("ok\n");
            else deliver(Number(bytes.latin1Slice(from, space)), bytes.subarray(space + 1, end));
        }
        rest = bytes.subarray(from);
    });
    publisher.on("error", () => publisher.destroy());
}).listen(publish, "127.0.0.1");
