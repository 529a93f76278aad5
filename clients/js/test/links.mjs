// A feed on connections that the test decides about, and a storage that it can look into.
import { Bugfeed } from "../bugfeed.js";
import { settled } from "./support.mjs";

/** The connections, in the order in which the feeds began them. */
export const links = [];

export const transport = (url, on, token) => {
  const link = { url, on, token, sent: [], ended: false };
  link.say = (message) => on.message(JSON.stringify(message));
  link.update = (bug, seq) => link.say({ command: "update", bug, when: "2014-04-03T21:13:45", cursor: `E.${seq}` });
  links.push(link);
  return { send: (command) => link.sent.push(command), close: () => (link.ended = true) };
};

/** A feed of the bugs 1 to 3 that is open, at E.1. */
export const open = async (options) => {
  const feed = new Bugfeed("ws://gateway.test/", { bugs: [1, 2, 3], transport, ...options });
  await settled();
  const link = links.at(-1);
  link.on.open();
  link.say({ command: "hello", result: "ok", heartbeat: 30, cursor: "E.1" });
  link.say({ command: "subscribe", result: "ok", count: 3, cursor: "E.1" });
  return { feed, link };
};

export const memory = () => {
  const values = new Map();
  return { values, getItem: (key) => values.get(key) ?? null, setItem: (key, value) => values.set(key, value) };
};
