// A push gateway as one writes it on Bun, whose WebSocket server is uWebSockets, with its topics and publish(). Clients
// speak bugfeed's classic protocol. The publisher sends lines, `BUG UPDATE`, over plain TCP, which costs less than HTTP
// or a broker; an empty line is answered by `ok`. Nothing is kept: who was away has missed what came.
const [port, publish] = process.argv.slice(2).map(Number);

function command(client, data) {
    let name, bugs;
    try {
        ({ command: name, bugs } = JSON.parse(data));
        if (name !== "subscribe" || !bugs.every(Number.isSafeInteger)) throw new Error("no such command");
    } catch (error) {
        return client.send(JSON.stringify({ result: "error", error: error.message }));
    }
    for (const bug of bugs) client.subscribe(String(bug));
    client.send(JSON.stringify({ command: "subscribe", result: "ok", bugs }));
}

const clients = Bun.serve({
    hostname: "127.0.0.1",
    port,
    fetch(request, server) {
        if (!server.upgrade(request)) return new Response("WebSocket only", { status: 426 });
    },
    websocket: {
        message: command,
        idleTimeout: 960, // Seconds, the longest there is: no pings while it is measured.
        backpressureLimit: 16 * 1024 * 1024, // Unsent bytes after which a slow client is cut.
        closeOnBackpressureLimit: true,
    },
});

Bun.listen({
    hostname: "127.0.0.1",
    port: publish,
    socket: {
        open(publisher) {
            publisher.data = Buffer.alloc(0);
        },
        data(publisher, chunk) {
            const bytes = publisher.data.length ? Buffer.concat([publisher.data, chunk]) : chunk;
            let from = 0;
            for (let end; (end = bytes.indexOf(10, from)) >= 0; from = end + 1) {
                const space = bytes.indexOf(32, from);
                if (end === from) publisher.write("ok\n");
                else clients.publish(bytes.latin1Slice(from, space), bytes.utf8Slice(space + 1, end));
            }
            publisher.data = bytes.subarray(from);
        },
    },
});
