/** A table whose changes can be told. */
export type TableName = keyof Tables;

/** What is given of a row: its key, and of the rest what is to be told. Columns that nobody is told may be there. */
export type Given<T extends TableName> = Pick<Tables[T]["row"], Extract<keyof Tables[T]["row"], Tables[T]["key"]>> &
  Partial<Tables[T]["row"]> & { readonly [C in Tables[T]["untold"]]?: unknown };

/** The same without columns that the table does not have. */
export type Exact<T extends TableName, R> = R & { readonly [C in Exclude<keyof R, keyof Given<T>>]: never };

/** An array of Postgres, of any depth. */
export type Many<V> = readonly (V | null | Many<V>)[];

/** Every event of a namespace, such as `extraction:started`. */
export type DeclaredEvent<N extends keyof Declared = keyof Declared> = { [M in N]: `${M}:${Declared[M]}` }[N];

/** An event: of a declared namespace only those that it declares, otherwise any. */
export type Known<E extends string> = E extends `${infer N}:${string}`
  ? N extends keyof Declared
    ? E extends DeclaredEvent<N>
      ? E
      : DeclaredEvent<N>
    : E
  : E;

/**
 * Types of payloads, by the name of the event. Yours to add to, from any file of your own:
 * `declare module "./realtime" { interface Payloads { "extraction:progress": { percent: number } } }`
 */
export interface Payloads {}

/** What an event carries: as `Payloads` says, otherwise anything that JSON can say. */
export type Payload<E extends string> = E extends keyof Payloads ? Payloads[E] : unknown;

/** How a column looks to whom it is not open. */
export interface Mask {
  readonly type: "email" | "phone" | "ssn" | "creditCard" | "name" | "redact";
  /** To whom it is open: to these roles, and to the owner of the row. */
  readonly show?: { readonly roles?: readonly string[]; readonly or?: "owner" };
}

/** Whom of the organization a change is told. */
export interface ChangeOptions<T extends TableName> {
  /** Only this user. Where the rule of the table names a column for it: left out, the user in that column. */
  readonly userId?: string;
  /** Only who has one of these roles; left out: the roles of the table's rule, or every member. */
  readonly targetRoles?: readonly Tables[T]["roles"][];
  /** Masks of columns, beside those of the table's rule, which always hold. */
  readonly maskingConfig?: { readonly [C in keyof Tables[T]["row"]]?: Mask };
  /** Whose row it is, for masks; left out: the user in the owner column of the table's rule. */
  readonly ownerId?: string;
  /** The same key with the same change gets the same answer, and is not told again. */
  readonly idempotencyKey?: string;
}

/** Whom of the organization an event is told. */
export interface BroadcastOptions {
  /** Only this user. */
  readonly userId?: string;
  /** Only who has one of these roles; left out: every member. */
  readonly targetRoles?: readonly string[];
  /** The same key with the same event gets the same answer, and is not told again. */
  readonly idempotencyKey?: string;
  /** Through the log of the database: told by every process of the service, after a restart too. */
  readonly durable?: boolean;
}

/** What was said: where it stands, and how many sockets it was written to. */
export interface Answer {
  readonly cursor: string;
  readonly sockets: number;
}

/** What was written into the log; the cursor is null when it was not seen there yet. */
export interface DurableAnswer {
  readonly durable: true;
  readonly cursor: string | null;
}

/** Says one event. */
export interface Say<E extends string> {
  (payload: Payload<E>, organizationId: string, options: BroadcastOptions & { readonly durable: true }): Promise<DurableAnswer>;
  (payload: Payload<E>, organizationId: string, options?: BroadcastOptions & { readonly durable?: false }): Promise<Answer>;
}

/** What can be said beside the events of namespaces. Every failure is a `RealtimeError`. */
export interface Verbs {
  /** A row came. */
  insert<T extends TableName, R extends Given<T>>(
    table: T,
    newRow: Exact<T, R>,
    organizationId: string,
    options?: ChangeOptions<T>,
  ): Promise<Answer>;
  /** A row changed. */
  update<T extends TableName, R extends Given<T>, O extends Given<T>>(
    table: T,
    newRow: Exact<T, R>,
    oldRow: Exact<T, O>,
    organizationId: string,
    options?: ChangeOptions<T>,
  ): Promise<Answer>;
  /** A row went; its key is enough. */
  delete<T extends TableName, O extends Given<T>>(
    table: T,
    oldRow: Exact<T, O>,
    organizationId: string,
    options?: ChangeOptions<T>,
  ): Promise<Answer>;
  /** Something happened. */
  broadcast<E extends string>(
    event: E & Known<E>,
    payload: Payload<E>,
    organizationId: string,
    options: BroadcastOptions & { readonly durable: true },
  ): Promise<DurableAnswer>;
  broadcast<E extends string>(
    event: E & Known<E>,
    payload: Payload<E>,
    organizationId: string,
    options?: BroadcastOptions & { readonly durable?: false },
  ): Promise<Answer>;
}

/** Where the service is, and what it knows us by. */
export interface Env {
  /** Address of the service, such as `https://realtime.example.com`. */
  readonly REALTIME_URL?: string | undefined;
  /** Its access token. */
  readonly ACCESS_TOKEN?: string | undefined;
}

/** How the service is spoken to. */
export interface Connection {
  /** Instead of the global `fetch`. */
  readonly fetch?: Fetch;
  /** Longest time for an answer, in milliseconds (15,000). */
  readonly timeoutMs?: number;
}

/** What is needed of `fetch`. */
export type Fetch = (
  url: string,
  init: {
    method: string;
    headers: Record<string, string>;
    body: string;
    redirect: "manual";
    // An AbortSignal, whose type every runtime brings itself.
    signal: any;
  },
) => Promise<{ readonly ok: boolean; readonly status: number; text(): Promise<string> }>;

/** Why nothing was said. Holds no secret. */
export class RealtimeError extends Error {
  /** A stable code: one of the service, or `not_configured`, `invalid_option`, `invalid_row`, `not_json`, `unreachable`, `timeout`, `unexpected_answer`. */
  readonly code: string;
  /** The status of the answer; null: there was none. */
  readonly status: number | null;

  constructor(code: string, message: string, status: number | null = null) {
    super(`${message} [${code}]`);
    this.name = "RealtimeError";
    this.code = code;
    this.status = status;
  }
}

/** A value as JSON; undefined: it is left out. */
type Encode = (value: unknown) => string | undefined;

interface Rule {
  readonly schema: string;
  readonly table: string;
  readonly key: readonly string[];
  readonly columns: readonly (readonly [string, Encode])[];
  readonly roles?: readonly string[];
  readonly organization?: string;
  readonly user?: string;
  readonly owner?: string;
  readonly masks?: Readonly<Record<string, Mask>>;
}

/** Values in the form in which the log tells them, so that nobody can tell where a change comes from. */
const to = {
  plain(value: unknown): string | undefined {
    return JSON.stringify(value);
  },
  /** Numbers with all their digits, as drivers give them: number, bigint or text. */
  number(value: unknown): string | undefined {
    if (Array.isArray(value)) return `[${value.map((one) => to.number(one) ?? "null").join(",")}]`;
    if (typeof value === "bigint") return String(value);
    if (typeof value === "number" && !Number.isFinite(value)) return JSON.stringify(String(value));
    const digits = typeof value === "string" && /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(value);
    return digits ? value : JSON.stringify(value);
  },
  /** Moments with their offset. */
  moment(value: unknown): string | undefined {
    if (Array.isArray(value)) return `[${value.map((one) => to.moment(one) ?? "null").join(",")}]`;
    if (!(value instanceof Date)) return JSON.stringify(value);
    return JSON.stringify(value.toISOString().replace(/\.?0*Z$/, "+00:00"));
  },
};

function encoded(what: string, value: unknown, encode: Encode): string | undefined {
  try {
    return encode(value);
  } catch {
    throw new RealtimeError("not_json", `${what} is nothing that JSON can say`);
  }
}

/** The columns of a row that may be told. */
function picture(rule: Rule, side: "new" | "old", row: object): string {
  const told: string[] = [];
  for (const [name, encode] of rule.columns) {
    const value = valueOf(row, name);
    const text = encoded(`${side}.${name} of ${rule.table}`, value, encode);
    if (text !== undefined) told.push(`${JSON.stringify(name)}:${text}`);
    else if (rule.key.includes(name)) {
      throw new RealtimeError("invalid_row", `${side}.${name} of ${rule.table} is missing: it is of the key`);
    }
  }
  return `{${told.join(",")}}`;
}

function valueOf(row: object, column: string): unknown {
  return Object.prototype.hasOwnProperty.call(row, column) ? (row as Record<string, unknown>)[column] : undefined;
}

/** What a column says of all these rows; undefined: nothing, or not the same. */
function unanimous(column: string | undefined, rows: readonly object[], given?: string): string | undefined {
  const values = new Set<unknown>(given === undefined ? [] : [given]);
  for (const row of column === undefined ? [] : rows) {
    const value = valueOf(row, column as string);
    if (value !== undefined) values.add(value === null ? null : String(value));
  }
  const [only] = values;
  return values.size === 1 && typeof only === "string" ? only : undefined;
}

/** Options as they are, none misspelt, and none that is empty by mistake: nobody means everybody by it. */
function checked(options: object, known: readonly string[]): Record<string, unknown> {
  if (typeof options !== "object" || options === null) throw new RealtimeError("invalid_option", "options are no object");
  const entries = Object.entries(options);
  for (const [name, value] of entries) {
    if (!known.includes(name)) {
      throw new RealtimeError("invalid_option", `there is no option ${JSON.stringify(name)} here; there are ${known.join(", ")}`);
    }
    if ((value === undefined || value === null) && name !== "idempotencyKey" && name !== "durable") {
      throw new RealtimeError("invalid_option", `${name} is ${String(value)}: leave it out to tell everybody`);
    }
  }
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined && value !== null));
}

/** One change as the service takes it, by the rule of its table. */
function change(
  type: "insert" | "update" | "delete",
  table: string,
  rows: { readonly new?: object; readonly old?: object },
  organizationId: string,
  given: object = {},
): string {
  const rule = RULES.get(table);
  if (rule === undefined) throw new RealtimeError("invalid_option", `the table ${JSON.stringify(table)} is not known here`);
  const options = checked(given, ["userId", "targetRoles", "maskingConfig", "ownerId", "idempotencyKey"]);
  const both = Object.values(rows);
  for (const row of both) {
    if (typeof row !== "object" || row === null) throw new RealtimeError("invalid_row", `a row of ${table} is no object`);
    const owner = rule.organization === undefined ? undefined : valueOf(row, rule.organization);
    if (owner !== undefined && String(owner) !== organizationId) {
      const message = `a row of ${table} is of another organization, says ${rule.organization}; of a row that moves, tell the one a delete and the other an insert`;
      throw new RealtimeError("invalid_row", message);
    }
  }
  if (rule.user !== undefined) {
    const user = unanimous(rule.user, both, options["userId"] as string | undefined);
    if (user === undefined) {
      const message = `only the user in ${rule.user} of ${table} is told of it, and who that is cannot be said: give the column, the same in both rows, or userId`;
      throw new RealtimeError("invalid_option", message);
    }
    options["userId"] = user;
  }
  if (rule.roles !== undefined) {
    const roles = (options["targetRoles"] ?? rule.roles) as readonly string[];
    const other = roles.find((role) => !rule.roles?.includes(role));
    if (other !== undefined) {
      throw new RealtimeError("invalid_option", `the rule of ${table} is not open to ${JSON.stringify(other)}, but to ${rule.roles.join(", ")}`);
    }
    options["targetRoles"] = roles;
  }
  if (rule.masks !== undefined) options["maskingConfig"] = { ...(options["maskingConfig"] as object), ...rule.masks };
  options["ownerId"] ??= unanimous(rule.owner, both);
  const schema = rule.schema === "public" ? undefined : rule.schema;
  const fields = { type, schema, table: rule.table, organizationId, ...options };
  const sides = (["new", "old"] as const).flatMap((side) => {
    const row = rows[side];
    return row === undefined ? [] : [`${JSON.stringify(side)}:${picture(rule, side, row)}`];
  });
  // The rows are JSON already: they go in before the brace that ends the object.
  const open = encoded("an option", fields, JSON.stringify)?.slice(0, -1);
  return `${open},${sides.join(",")}}`;
}

/** Sends bodies to the service. */
function sender(env: Env, connection: Connection): (body: string) => Promise<unknown> {
  const token = env.ACCESS_TOKEN?.trim() ?? "";
  const address = env.REALTIME_URL?.trim().replace(/^ws/, "http").replace(/\/+$/, "") ?? "";
  if (!/^https?:\/\/[^\s/?#@]+(\/[^\s?#@]*)?$/i.test(address)) {
    throw new RealtimeError("not_configured", "REALTIME_URL has to be the address of the service, such as https://realtime.example.com, without user and query");
  }
  // Other characters cannot be sent, and would be shown by whoever complains about them.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new RealtimeError("not_configured", "ACCESS_TOKEN has to be the access token of the service");
  }
  const own = globalThis as unknown as { fetch: Fetch; AbortSignal: { timeout(milliseconds: number): unknown } };
  const failed = (code: string, message: string, status: number | null = null) =>
    new RealtimeError(code, message.split(token).join("(the access token)"), status);

  return async (body) => {
    const init = {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body,
      redirect: "manual" as const,
      signal: own.AbortSignal.timeout(connection.timeoutMs ?? 15_000),
    };
    let answer: Awaited<ReturnType<Fetch>>;
    let text: string;
    try {
      const fetching = connection.fetch ?? own.fetch.bind(globalThis);
      answer = await fetching(`${address}/broadcast`, init);
      text = await answer.text();
    } catch (error) {
      const { name, cause } = error as { name?: unknown; cause?: { code?: unknown } };
      if (name === "TimeoutError") throw failed("timeout", "the service did not answer in time; it may have been said");
      const why = typeof cause?.code === "string" ? ` (${cause.code})` : "";
      throw failed("unreachable", `the service could not be reached${why}; if it was, it may have been said`);
    }
    let json: { readonly error?: { readonly code?: unknown; readonly message?: unknown }; readonly cursor?: unknown } | null;
    try {
      json = JSON.parse(text);
    } catch {
      json = null;
    }
    const refusal = json?.error;
    if (!answer.ok && typeof refusal?.code === "string" && /^\w{1,64}$/.test(refusal.code) && refusal.code !== token) {
      throw failed(refusal.code, String(refusal.message), answer.status);
    }
    if (!answer.ok || json?.cursor === undefined) {
      throw failed("unexpected_answer", `status ${answer.status}, and nothing that the service says: is REALTIME_URL its address?`, answer.status);
    }
    return json;
  };
}

/** Speaks to the service as the environment says. Throws a `RealtimeError` where that cannot be. */
export function createRealtime(env: Env, connection: Connection = {}): Realtime {
  const send = sender(env, connection);
  const say = async (event: string, payload: unknown, organizationId: string, given: object = {}) => {
    const options = checked(given, ["userId", "targetRoles", "idempotencyKey", "durable"]);
    const fields = { type: "broadcast", event, organizationId, payload: payload ?? null, ...options };
    return send(encoded(`the payload of ${event}`, fields, JSON.stringify) as string);
  };
  const verbs = {
    insert: async (table: string, row: object, organization: string, options?: object) =>
      send(change("insert", table, { new: row }, organization, options)),
    update: async (table: string, row: object, old: object, organization: string, options?: object) =>
      send(change("update", table, { new: row, old }, organization, options)),
    delete: async (table: string, old: object, organization: string, options?: object) =>
      send(change("delete", table, { old }, organization, options)),
    broadcast: say,
  } as Verbs;
  const event = <E extends string>(name: E): Say<E> =>
    ((payload: unknown, organization: string, options?: object) => say(name, payload, organization, options)) as Say<E>;
  return { ...namespaces(event), ...verbs };
}
