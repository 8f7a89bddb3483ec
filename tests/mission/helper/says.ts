// What a server of an application says with the generated module; prints each answer.
import { createRealtime, type Answer, type DurableAnswer } from "./lib/realtime.js";

declare module "./lib/realtime.js" {
  interface Payloads {
    "extraction:progress": { percent: number };
  }
}
declare const process: { env: Record<string, string | undefined> };
declare const console: { log(text: string): void };

const realtime = createRealtime(process.env);
const org = "org_1";
const show = (answer: Answer | DurableAnswer): void => console.log(JSON.stringify(answer));

// Q7 to Q12, as the document has them.
show(await realtime.insert("materials", { id: "mat_123", title: "Breaking News", status: "pending" }, org));
show(await realtime.update("materials", { id: "mat_123", status: "completed" }, { id: "mat_123", status: "pending" }, org));
show(await realtime.delete("materials", { id: "mat_123" }, org));
show(await realtime.broadcast("processing-complete", { materialId: "mat_123", claimCount: 5, duration: 1234 }, org));
show(await realtime.extraction.started({ materialId: "mat_123" }, org));
show(await realtime.extraction.progress({ percent: 50 }, org));
show(await realtime.notifications.new(null, org));

// Q13 to Q16: options of the call, and the rule of the table.
show(await realtime.insert("materials", { id: "for-admins" }, org, { targetRoles: ["admin", "editor"] }));
show(await realtime.broadcast("task-assigned", { taskId: "task_123" }, org, { userId: "bert" }));
show(await realtime.insert("notifications", { id: 1, user_id: "anna", title: "x" }, org));
show(await realtime.delete("notifications", { id: 1 }, org, { userId: "anna" }));
show(await realtime.presence.idle({}, org, { userId: "anna", targetRoles: ["admin"] }));

// Q4, Q3: a whole row, as a driver hands it over; what the rule leaves out stays here.
const claim = {
  id: "9007199254740993",
  title: "x",
  amount: 12345678901234567890n,
  parts: ["1.50", null, [2]],
  created_at: new Date(1500),
  mood: "it's \"odd\" */" as const,
  organization_id: org,
  secret: "s3cret",
};
show(await realtime.insert("claims", claim, org));
show(await realtime.update("claims", { ...claim, title: "y" }, { id: 7, amount: Number.NaN }, org, { targetRoles: ["admin"] }));

// Q17 to Q19: masks of the rule, opened to the owner and a role, and one of the call.
const employee = { id: 1, person: "anna", ssn: "123-45-6789", full_name: "John" };
show(
  await realtime.insert("employees", employee, org, {
    maskingConfig: { full_name: { type: "name" }, ssn: { type: "ssn", show: { roles: ["member"] } } },
  }),
);
// Two owners: nobody is the owner of both rows.
show(await realtime.update("employees", employee, { ...employee, person: "carl" }, org));

// Names that are none.
show(await realtime.insert("*/ evil", { id: 1, '*/ "; evil() //': "x", new: "y", constructor: "z" }, org));
show(await realtime.insert("__proto__", { id: 1, ["__proto__"]: "p" }, org));
show(await realtime.delete('"audit.log"', { id: 1 }, org));
show(await realtime.delete("audit.log", { a: 1, b: "2" }, org));
show(await realtime["with-dash"]["`${evil}\""](1, org));
show(await realtime.broadcast("delete:everything", 1, org));
show(await realtime.insert("quiet", { id: 1, text: "hush" }, org));

const durable: DurableAnswer = await realtime.extraction.completed({}, org, { durable: true });
show(durable);
show(await realtime.extraction.failed({}, org, { idempotencyKey: "once" }));
show(await realtime.extraction.failed({}, org, { idempotencyKey: "once" }));
