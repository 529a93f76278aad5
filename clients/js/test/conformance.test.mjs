// The scripted conversations of ../conformance. Run: node --test test/
import { Script, play } from "./script.mjs";

play("", (client) => new Script(client));
