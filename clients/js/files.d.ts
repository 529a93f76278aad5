/**
 * Keeps the cursor in a file, for a bot in Node: `new Bugfeed(url, { bugs, storage: files, key: "bot.cursor" })`. The key
 * is the path; its folder must be there. One file for each bot: two that write to the same one spoil each other's.
 *
 * The file is written beside itself (`bot.cursor.new`) and renamed, so that a bot that dies leaves the old cursor or the
 * new one. One that was emptied or damaged is no fresh start, but a gap. To start afresh, remove it.
 */
export const files: {
  /**
   * Null if there is no such file.
   * @throws Error if it cannot be read; so does `new Bugfeed`
   */
  getItem(file: string): string | null;
  /** @throws Error if it cannot be written; the feed tells so as an `error`, and a loop throws it */
  setItem(file: string, cursor: string): void;
};
