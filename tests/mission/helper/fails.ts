// What goes wrong, and how it is told; prints code, status and message of each, and that no secret is in it.
import { createRealtime, RealtimeError, type Connection, type Env, type Fetch, type Realtime } from "./lib/realtime.js";

declare const process: { env: Record<string, string | undefined> };
declare const console: { log(text: string): void };

const { REALTIME_URL, ACCESS_TOKEN } = process.env;
const env: Env = { REALTIME_URL, ACCESS_TOKEN };
const SECRET = "another-secret-token";

async function fails(what: string, call: () => unknown): Promise<void> {
  try {
    await call();
    console.log(`${what}: nothing failed`);
  } catch (error) {
    const known = error instanceof RealtimeError && error instanceof Error && error.name === "RealtimeError";
    const all = known ? [error.message, error.stack, error.code, JSON.stringify(error), String((error as { cause?: unknown }).cause)].join(" ") : "";
    const leak = [SECRET, ACCESS_TOKEN ?? "?"].some((secret) => all.includes(secret));
    console.log(known && !leak ? `${what}: ${error.code} ${error.status} ${error.message}` : `${what}: NOT AS IT SHOULD BE ${String(error)} ${all}`);
  }
}

const say = (realtime: Realtime): Promise<unknown> => realtime.broadcast("x", 1, "org_1");
const made = (more: Env, connection?: Connection): Realtime => createRealtime({ ...env, ...more }, connection);
const answers = (status: number, body: string): Connection => ({
  fetch: async () => ({ ok: status < 300, status, text: async () => body }),
});
const realtime = createRealtime(env);
// Callers without types.
const loose = realtime as unknown as Record<string, (...all: unknown[]) => Promise<unknown>>;

await fails("no address", () => createRealtime({ ACCESS_TOKEN: SECRET }));
await fails("no token", () => createRealtime({ REALTIME_URL }));
await fails("bad token", () => made({ ACCESS_TOKEN: `${SECRET}\nx` }));
await fails("token in the address", () => made({ REALTIME_URL: `http://user:${SECRET}@localhost` }));
await fails("token in the query", () => made({ REALTIME_URL: `http://localhost?token=${SECRET}` }));
await fails("wrong token", () => say(made({ ACCESS_TOKEN: SECRET })));
await fails("nobody there", () => say(made({ REALTIME_URL: "http://127.0.0.1:1" })));
await fails("somebody else", () => say(made({}, answers(200, "<html>"))));
await fails("moved", () => say(made({}, answers(302, ""))));
const echo: Fetch = async (_, init) => {
  const message = JSON.stringify(init);
  return { ok: false, status: 400, text: async () => JSON.stringify({ error: { code: "echo", message } }) };
};
await fails("an echo", () => say(made({ ACCESS_TOKEN: SECRET }, { fetch: echo })));
await fails("an error with secrets", () =>
  say(made({}, { fetch: () => Promise.reject(Object.assign(new Error(`header ${ACCESS_TOKEN}`), { cause: { code: 1 } })) })),
);
const never: Fetch = (_, { signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
    // Node ends when only such a signal is waited for.
    wait = (globalThis as unknown as { setTimeout(f: () => void, ms: number): number }).setTimeout(() => {}, 60_000);
  });
let wait = 0;
await fails("too slow", () => say(made({}, { fetch: never, timeoutMs: 20 })));
(globalThis as unknown as { clearTimeout(id: number): void }).clearTimeout(wait);

await fails("an event that is not declared", () => loose["broadcast"]?.("extraction:startd", {}, "org_1"));
await fails("no organization", () => loose["broadcast"]?.("x", {}));
await fails("a payload that is no JSON", () => realtime.broadcast("x", { n: 1n }, "org_1"));
await fails("a user that is not there", () => loose["broadcast"]?.("x", {}, "org_1", { userId: undefined }));
await fails("an option that is none", () => loose["broadcast"]?.("x", {}, "org_1", { targetRole: ["admin"] }));
await fails("a table that is none", () => loose["insert"]?.("guarded", { id: 1 }, "org_1"));
await fails("a row without its key", () => loose["insert"]?.("materials", { title: "x" }, "org_1"));
await fails("a row that is none", () => loose["delete"]?.("materials", undefined, "org_1"));
await fails("a row of another organization", () => realtime.insert("orders", { id: 1, organization_id: "org_2" }, "org_1"));
await fails("a row that moves", () =>
  realtime.update("orders", { id: 1, organization_id: "org_1" }, { id: 1, organization_id: "org_2" }, "org_1"),
);
await fails("a role beside the rule", () => loose["insert"]?.("claims", { id: 1 }, "org_1", { targetRoles: ["stranger"] }));
await fails("a row without its user", () => realtime.delete("notifications", { id: 1 }, "org_1"));
await fails("a row of two users", () =>
  realtime.update("notifications", { id: 1, user_id: "anna" }, { id: 1, user_id: "bert" }, "org_1"),
);
await fails("a row of nobody", () => realtime.insert("notifications", { id: 1, user_id: null }, "org_1", { userId: "anna" }));
