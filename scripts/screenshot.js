#!/usr/bin/env node
// Takes the pictures of the example page for docs/images: waits in real time, as a person would.
// Usage: node scripts/screenshot.js URL FILE [WIDTH HEIGHT SECONDS]
"use strict";
const { spawn } = require("child_process");
const fs = require("fs");
const os = require("os");
const path = require("path");

const [url, file, width = "1280", height = "900", seconds = "9"] = process.argv.slice(2);
if (!url || !file) {
  console.error("usage: screenshot.js URL FILE [WIDTH HEIGHT SECONDS]");
  process.exit(2);
}

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "screenshot-"));
const program = process.env.ROWCAST_TEST_BROWSER || "chromium";
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"];
// DevTools over pipes: one JSON message after the other, each ended by a zero byte.
const browser = spawn(program, [...flags, "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
});
const [, , , input, output] = browser.stdio;
const waiting = new Map();
let next = 1;
let rest = "";
output.on("data", (chunk) => {
  const parts = (rest + chunk).split("\0");
  rest = parts.pop();
  for (const message of parts.map(JSON.parse)) waiting.get(message.id)?.(message);
});
const call = (method, params = {}, sessionId) =>
  new Promise((resolve, reject) => {
    const id = next++;
    waiting.set(id, ({ result, error }) => (error ? reject(new Error(error.message)) : resolve(result)));
    input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  });

(async () => {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
  const size = { width: Number(width), height: Number(height) };
  const mobile = size.width < 600;
  const scale = mobile ? 2 : 1;
  await call("Emulation.setDeviceMetricsOverride", { ...size, deviceScaleFactor: scale, mobile }, sessionId);
  await call("Page.navigate", { url }, sessionId);
  await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1000));
  const { data } = await call("Page.captureScreenshot", { format: "png" }, sessionId);
  fs.mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  fs.writeFileSync(file, Buffer.from(data, "base64"));
})()
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => {
    browser.once("exit", () => fs.rmSync(profile, { recursive: true, force: true }));
    browser.kill();
  });
