// Two panels, each with a socket of its own in the native protocol. No library: this is all a client needs.
"use strict";

const ORGANIZATIONS = ["acme", "globex"];
const LOG_LINES = 60;

class Panel {
  constructor(organization) {
    this.organization = organization;
    this.tasks = new Map();
    this.projects = new Map();
    this.labels = new Map();
    this.buttons = new Map();
    this.selected = null;
    this.count = 0;
    this.delay = 1000;
    const root = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.root = root;
    this.part = (name) => root.querySelector(name);
    this.part("h2").textContent = organization;
    root.addEventListener("click", (event) => {
      const action = event.target.closest("[data-do]")?.dataset.do;
      if (action) this.act(action, this.selected);
    });
    document.querySelector("main").append(root);
    this.connect();
  }

  say(word, kind = "") {
    this.part(".word").textContent = word;
    this.part(".state").className = `state ${kind}`;
  }

  hint(text, wrong = true) {
    const hint = this.part(".hint");
    hint.textContent = text;
    hint.classList.toggle("wrong", wrong);
  }

  // A fresh token for every dial; then the first frame says who we are.
  async connect() {
    this.say("connecting");
    let who;
    try {
      who = await ask(`/demo/token?organization=${this.organization}`);
    } catch {
      return this.again();
    }
    this.part(".who").textContent = `${who.user} on org:${who.organizationId}`;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/realtime/v1/websocket`);
    this.socket = socket;
    socket.onopen = () => this.send({ type: "auth", token: who.token, organizationId: who.organizationId });
    socket.onmessage = (message) => this.receive(JSON.parse(message.data));
    socket.onclose = (event) => {
      clearInterval(this.pinger);
      if (event.code >= 4500) return this.say(event.reason || `closed (${event.code})`, "lost");
      this.again();
    };
  }

  again() {
    this.say("coming back", "lost");
    setTimeout(() => this.connect(), this.delay * (0.8 + Math.random() * 0.4));
    this.delay = Math.min(this.delay * 1.5, 15000);
  }

  send(frame) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  async receive(frame) {
    switch (frame.type) {
      case "auth_success":
        this.delay = 1000;
        this.pinger = setInterval(() => this.send({ type: "ping" }), 20000);
        // From the reply on everything is delivered, so rows that are read after it have no gap.
        this.send({ type: "subscribe", ref: 1, channel: `org:${this.organization}` });
        break;
      case "subscribed":
      case "resync":
        this.say("live", "live");
        await this.load();
        break;
      case "ping":
        this.send({ type: "pong" });
        break;
      case "postgres_changes":
        this.apply(frame);
        this.log(frame.eventType, frame);
        break;
      case "invalidate":
        this.log("INVALID", frame);
        await this.load();
        break;
      case "error":
        this.hint(`${frame.name}: ${frame.message}`);
        break;
    }
  }

  async load() {
    try {
      const rows = await ask(`/demo/rows?organization=${this.organization}`);
      this.projects = new Map(rows.projects.map((row) => [row.id, row]));
      this.tasks = new Map(rows.tasks.map((row) => [row.id, row]));
      this.labels.clear();
      for (const row of rows.labels) this.label(row, true);
      this.draw();
    } catch (error) {
      this.hint(error.message);
    }
  }

  label({ task_id, label }, there) {
    const labels = this.labels.get(task_id) ?? new Set();
    if (there) labels.add(label);
    else labels.delete(label);
    this.labels.set(task_id, labels);
  }

  // Events carry the whole row: applying them in order keeps the list equal to the table.
  apply({ table, eventType, new: row, old }) {
    const gone = eventType === "DELETE";
    if (table === "projects") gone ? this.projects.delete(old.id) : this.projects.set(row.id, row);
    if (table === "tasks") gone ? this.tasks.delete(old.id) : this.tasks.set(row.id, { ...this.tasks.get(row.id), ...row });
    if (table === "task_labels") this.label(gone ? old : row, !gone);
    const touched = table === "tasks" ? (row ?? old).id : table === "task_labels" ? (row ?? old).task_id : null;
    this.draw(gone ? null : touched);
  }

  draw(fresh) {
    const list = this.part(".tasks");
    if (!this.tasks.has(this.selected)) this.selected = null;
    for (const [id, button] of this.buttons) {
      if (!this.tasks.has(id)) {
        button.parentElement.remove();
        this.buttons.delete(id);
      }
    }
    const newestFirst = [...this.tasks.values()].sort((a, b) => b.id - a.id);
    newestFirst.forEach((task, place) => {
      const button = this.button(task.id);
      const [name, chip, sub] = button.children;
      name.textContent = task.title;
      chip.textContent = task.status;
      chip.className = `chip ${task.status}`;
      const labels = [...(this.labels.get(task.id) ?? [])].map((label) => `#${label}`);
      const project = this.projects.get(task.project_id)?.name ?? "…";
      sub.textContent = [`${task.id} · ${project}`, ...labels].join(" ");
      button.setAttribute("aria-pressed", String(task.id === this.selected));
      if (list.children[place] !== button.parentElement) list.insertBefore(button.parentElement, list.children[place] ?? null);
      if (task.id === fresh) flash(button);
    });
  }

  button(id) {
    let button = this.buttons.get(id);
    if (!button) {
      button = element("button", "task");
      button.type = "button";
      button.append(element("span", "name"), element("span", "chip"), element("span", "sub"));
      button.onclick = () => {
        this.selected = this.selected === id ? null : id;
        this.draw();
      };
      const item = element("li");
      item.append(button);
      this.buttons.set(id, button);
    }
    return button;
  }

  log(op, frame) {
    this.count += 1;
    this.part(".count").textContent = String(this.count);
    const lag = Date.now() - Date.parse(frame.commitTimestamp);
    const row = frame.new ?? frame.old ?? {};
    const id = frame.recordId ?? row.id ?? [row.task_id, row.label].filter(Boolean).join(",");
    const line = element("summary");
    line.append(
      element("span", `op ${op}`, op),
      element("span", "what", `${frame.table} ${id ?? ""}`),
      element("span", "lag", Number.isFinite(lag) ? `${Math.max(lag, 0)} ms` : ""),
    );
    const details = element("details");
    details.append(line, element("pre", "", JSON.stringify(frame, null, 1)));
    const item = element("li");
    item.append(details);
    const log = this.part(".log");
    log.prepend(item);
    flash(item);
    while (log.children.length > LOG_LINES) log.lastElementChild.remove();
  }

  async act(action, task) {
    try {
      await ask("/demo/act", { organization: this.organization, action, task });
      this.hint("The buttons act on the selected task, or on any.", false);
    } catch (error) {
      this.hint(error.message);
    }
  }
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function flash(node) {
  node.classList.remove("fresh");
  void node.offsetWidth;
  node.classList.add("fresh");
}

async function ask(path, body) {
  const answer = await fetch(path, body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text || `the service answered ${answer.status}`);
  return text ? JSON.parse(text) : null;
}

// Something always happens, until you pause it or look away.
const panels = ORGANIZATIONS.map((organization) => new Panel(organization));
const CALM = ["update", "update", "label", "label", "move", "insert", "delete"];
const traffic = document.getElementById("traffic");
let running = !new URLSearchParams(location.search).has("quiet");
const show = () => {
  traffic.textContent = running ? "Pause traffic" : "Start traffic";
  traffic.setAttribute("aria-pressed", String(running));
};
traffic.onclick = () => {
  running = !running;
  show();
};
show();
setInterval(() => {
  if (!running || document.hidden) return;
  const panel = pick(panels);
  const few = panel.tasks.size < 4;
  const many = panel.tasks.size > 10;
  panel.act(few ? "insert" : many ? "delete" : pick(CALM), null);
}, 1800);

function pick(list) {
  return list[Math.floor(Math.random() * list.length)];
}

ask("/demo/psql").then(({ lines }) => {
  if (!lines.length) return;
  const details = document.getElementById("psql");
  details.hidden = false;
  details.querySelector("code").textContent = lines.join("\n");
}).catch(() => {});
