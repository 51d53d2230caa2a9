// kvbus with nats.js. It expects an empty store.
import { randomUUID } from "node:crypto";
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

// ask sends a request. What the service refuses is thrown, with its KV-Error
// as code; what NATS refuses is thrown by nats.js.
async function ask(subject, body = "", fields = {}) {
  const h = headers();
  for (const [name, value] of Object.entries(fields)) h.set(name, value);
  const reply = await nc.request(subject, body, { headers: h, timeout: 5000 });
  const code = reply.headers?.get("KV-Error");
  if (code) {
    throw Object.assign(new Error(reply.headers.get("Nats-Service-Error")), { code });
  }
  return reply;
}

// Watch first, so that nothing is missed.
const events = nc.subscribe("kv.events.>");
await nc.flush();

const set = await ask("kv.set.color", "blue");
console.log("set color:", set.headers.get("KV-Revision"));
console.log("get color:", (await ask("kv.get.color")).string());

// Compare and swap: with the expected value, or to create without one.
for (const [key, value, expected] of [
  ["color", "green", { "KV-Expected": "blue" }],
  ["color", "red", { "KV-Expected": "blue" }],
  ["leader", "node-1", {}],
]) {
  console.log(`cas ${key} ${value}:`, (await ask(`kv.cas.${key}`, value, expected)).string());
}

console.log("incr visits:", (await ask("kv.incr.visits")).string());
console.log("incr visits:", (await ask("kv.incr.visits", "41")).string());

// Without an answer you don't know whether a write took place. With an id it
// can be sent again: it takes effect once, and this is the first answer twice.
const id = { "KV-Request-Id": randomUUID() };
console.log("incr orders:", (await ask("kv.incr.orders", "5", id)).string());
console.log("incr orders:", (await ask("kv.incr.orders", "5", id)).string());

// Keys come in pages; the cursor of one leads to the next.
let page = {};
do {
  const reply = await ask("kv.keys", "", { "KV-Limit": "3", ...page });
  console.log("keys:", reply.string().split("\n").join(" "));
  page = { "KV-Cursor": reply.headers.get("KV-Cursor") };
} while (page["KV-Cursor"]);

// A key that lives for a second, and every mutation up to its end.
await ask("kv.set.session", "abc", { "KV-TTL": "1s" });
for await (const event of events) {
  const operation = event.headers.get("KV-Operation");
  console.log("event:", event.headers.get("KV-Revision"), operation, event.subject, event.string());
  if (operation === "EXPIRE") break;
}

try {
  await ask("kv.get.session");
} catch (err) {
  console.log("get session:", err.code ?? err);
}

await nc.drain();
