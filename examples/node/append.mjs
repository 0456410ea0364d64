// Journals an agent's start, a step and its end, and reads them back; Node's own modules only.
//
//   node append.mjs [agent-id]

import { statSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

const agentId = process.argv[2] ?? `node-${Date.now()}-${process.pid}`;

// Where the daemon listens: what the environment says, else the user's own, else the host's.
function findSocket() {
  const { AGENT_JOURNAL_SOCKET: named, XDG_RUNTIME_DIR: runtime } = process.env;
  if (named) return named;
  const own = runtime ? `${runtime}/agent-journal` : `/tmp/agent-journal-${process.getuid()}`;
  const isOurs = statSync(own, { throwIfNoEntry: false })?.uid === process.getuid();
  const isThere = statSync(`${own}/journal.sock`, { throwIfNoEntry: false })?.isSocket();
  return isOurs && isThere ? `${own}/journal.sock` : "/run/agent-journal/journal.sock";
}

// Replies come in the order of the requests, so the first caller waiting gets the next line.
class Journal {
  #waiting = [];

  constructor(path) {
    this.connection = createConnection(path);
    const lines = createInterface({ input: this.connection });
    lines.on("line", (line) => {
      const reply = JSON.parse(line);
      const { resolve, reject } = this.#waiting.shift();
      reply.ok ? resolve(reply) : reject(new Error(`${reply.error.code}: ${reply.error.message}`));
    });
    const fail = (error) => this.#waiting.splice(0).forEach(({ reject }) => reject(error));
    for (const source of [this.connection, lines]) source.on("error", fail); // both tell of it
    this.connection.on("close", () => fail(new Error("the connection was closed")));
  }

  call(request) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.connection.write(JSON.stringify({ agent_id: agentId, ...request }) + "\n");
    });
  }
}

const path = findSocket();
const journal = new Journal(path);
try {
  // All at once: nothing waits, and each promise is kept when its entry is durable. With a key,
  // a repeat is recognised: the entry is recorded once, however often it is sent.
  const appended = await Promise.all([
    journal.call({ op: "append", event: { Started: { goal: "greet" } }, key: "start" }),
    journal.call({ op: "append", iteration: 1, event: { StepCompleted: { result: "Hello!" } }, key: "greet" }),
    journal.call({ op: "append", iteration: 1, event: { Terminated: { reason: "Completed" } }, key: "end" }),
  ]);
  for (const reply of appended) console.log(JSON.stringify(reply));
  const { entries } = await journal.call({ op: "read" });
  for (const { sequence, timestamp, event } of entries) {
    console.log(sequence, timestamp, JSON.stringify(event));
  }
} catch (error) {
  const hint = ["ENOENT", "ECONNREFUSED"].includes(error.code) ? "; is agent-journald running?" : "";
  console.error(`${path}: ${error.message}${hint}`);
  process.exitCode = 1;
} finally {
  journal.connection.end();
}
