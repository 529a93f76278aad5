// SPDX-License-Identifier: MIT OR Apache-2.0
/** Keeps cursors in files, for bots in Node; what is public is in files.d.ts. */

import { readFileSync, renameSync, writeFileSync } from "node:fs";

/** What gateways make and clients store. Anything else has been damaged. */
const CURSOR = /^[ -~]{1,1000}$/;
/** No gateway makes this: each answers it with a gap. */
const DAMAGED = "damaged";

export const files = {
  getItem(file) {
    let text;
    try {
      text = readFileSync(file, "utf8").trim();
    } catch (error) {
      // Only what was never there is a fresh start.
      if (error.code === "ENOENT") return null;
      throw error;
    }
    return CURSOR.test(text) ? text : DAMAGED;
  },

  // Replaced in one step: whenever a bot dies, the old cursor is there, or the new one. Not synced, which would stop the
  // bot for some ms at each event: after a power cut the old one only repeats, and a file that was emptied is a gap.
  setItem(file, cursor) {
    writeFileSync(`${file}.new`, cursor);
    renameSync(`${file}.new`, file);
  },
};
