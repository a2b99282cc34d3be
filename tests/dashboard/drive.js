"use strict";
// Opens the dashboard in headless Chromium, as its users do, and tells what it saw as JSON. Speaks the DevTools protocol
// over a pipe: no package is needed.
//
//   node drive.js CHROMIUM PROFILE URL [FOLDER-FOR-SCREENSHOTS [TOKEN]]

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const [, , chromium, profile, url, screenshots, token] = process.argv;
const PATIENCE_MS = 90000;
const browser = spawn(chromium, ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars",
  "--remote-debugging-pipe", "--user-data-dir=" + profile, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });

const waiting = new Map(), seen = { errors: [], requests: [] };
let sent = 0, session, buffered = "";
browser.on("exit", code => { if (!seen.done) fail("the browser ended with " + code); });
// What is left in the pipes when the browser is gone does not matter.
for (const pipe of [3, 4]) browser.stdio[pipe].on("error", () => {});
setTimeout(() => fail("no end within " + PATIENCE_MS + " ms, at: " + seen.at), PATIENCE_MS).unref();

function end(code) {
  seen.done = true;
  browser.kill("SIGKILL");
  process.exitCode = code;
  setTimeout(() => process.exit(code), 100);
}
function fail(why) {
  if (seen.done) return;
  console.error(why + "\n" + JSON.stringify(seen, null, 1));
  end(1);
}

browser.stdio[4].on("data", piece => {
  buffered += piece;
  for (let at; (at = buffered.indexOf("\0")) >= 0; buffered = buffered.slice(at + 1)) heard(JSON.parse(buffered.slice(0, at)));
});
function heard({ id, method, params, result, error }) {
  if (id) {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error ? reject(new Error(error.message)) : resolve(result);
  }
  if (method === "Runtime.exceptionThrown") seen.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) seen.errors.push(JSON.stringify(params.args));
  if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) seen.errors.push(params.entry.text + " " + (params.entry.url ?? ""));
  if (method === "Network.requestWillBeSent") seen.requests.push(params.request.url);
}
function call(method, params = {}) {
  const id = ++sent;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId: session }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}
async function evaluate(expression) {
  const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}
async function until(what, expression) {
  seen.at = what;
  while (!await evaluate(expression)) await new Promise(resolve => setTimeout(resolve, 100));
}
const text = id => evaluate(`document.getElementById(${JSON.stringify(id)}).textContent`);

async function screen(width, height, scheme, name) {
  await call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  await call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  await evaluate("scrollTo(0, 0)");
  await new Promise(resolve => setTimeout(resolve, 300));
  const { inside, back, text: colour } = await evaluate(`({ inside: document.documentElement.scrollWidth <= innerWidth,
    back: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color })`);
  if (screenshots) {
    const { data } = await call("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
    fs.writeFileSync(path.join(screenshots, name + ".png"), Buffer.from(data, "base64"));
  }
  return { name, inside, back, colour };
}

// What the Tab key reaches, in order, and whether one sees where it is.
async function walk() {
  // From the top, wherever the focus has been.
  await evaluate(`(() => { const top = document.createElement("span"); top.tabIndex = -1; document.body.prepend(top); top.focus(); top.remove(); })()`);
  const stops = [];
  for (let step = 0; step < 60; step++) {
    await call("Input.dispatchKeyEvent", { type: "keyDown", key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 });
    await call("Input.dispatchKeyEvent", { type: "keyUp", key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 });
    const stop = await evaluate(`(() => { const at = document.activeElement; if (at === document.body) return null;
      const seen = at.matches("fieldset input") ? at.nextElementSibling : at;
      return { name: at.id || at.getAttribute("aria-label") || at.textContent.trim().slice(0, 30), outlined: getComputedStyle(seen).outlineStyle !== "none" }; })()`);
    if (!stop || stops.some(other => other.name === stop.name)) break;
    stops.push(stop);
  }
  return stops;
}

async function run() {
  const { targetId } = await call("Target.createTarget", { url: "about:blank" });
  session = (await call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
  for (const domain of ["Runtime", "Log", "Page", "Network", "Accessibility"]) await call(domain + ".enable");
  await call("Emulation.setDeviceMetricsOverride", { width: 1366, height: 900, deviceScaleFactor: 1, mobile: false });
  await call("Page.navigate", { url });
  if (token) {
    await until("the question for a token", `document.getElementById("ask")?.hidden === false`);
    seen.asked = await text("state");
    // That the first answer was 401 is what was expected.
    seen.errors = seen.errors.filter(error => !error.includes("401"));
    await evaluate(`document.getElementById("token").value = ${JSON.stringify(token)}; document.querySelector("#ask button").click()`);
  }
  await until("being live", `document.getElementById("state")?.textContent === "live"`);
  await until("commands per second", `/[1-9]/.test(document.getElementById("ops").textContent)`);
  await until("the hit ratio", `/\\d %/.test(document.getElementById("hits").textContent)`);
  await until("the latency", `/\\d/.test(document.getElementById("p99").textContent)`);
  await until("hot keys", `document.querySelectorAll("#hot li").length > 0`);
  await until("a second core at work", `[...document.querySelectorAll("#cores tbody tr")].every(row => /[1-9]/.test(row.cells[1].textContent))`);
  const moving = `document.getElementById("ops-more").textContent`;
  const before = await evaluate(moving);
  seen.before = before;
  await until("numbers that move", `${moving} !== ${JSON.stringify(before)}`);
  await until("lines", `document.querySelectorAll("#chart-ops polyline").length === 2 && document.querySelectorAll("#chart-lat polyline").length === 4`);
  for (const id of ["ops", "hits", "p99", "memory", "keys", "evicted", "clients", "cpu", "about", "balance"]) (seen.shown ??= {})[id] = await text(id);
  seen.kinds = await evaluate(`[...document.querySelectorAll("#kinds tbody tr")].map(row => row.innerText)`);
  seen.commands = await evaluate(`[...document.querySelectorAll("#commands tbody th")].map(cell => cell.textContent)`);
  seen.hot = await evaluate(`[...document.querySelectorAll("#hot code")].map(cell => cell.textContent)`);
  seen.markup = await evaluate(`document.querySelectorAll("#hot img").length`);
  seen.wal = await evaluate(`document.getElementById("wal").innerText || document.getElementById("wal-off").innerText`);
  seen.whatIf = await evaluate(`document.querySelector("#what-if svg")?.getAttribute("aria-label") ?? document.getElementById("what-if").textContent`);
  await until("namespaces", `document.querySelectorAll("#namespaces tbody tr").length === 2`);
  seen.namespaces = await evaluate(`[...document.querySelectorAll("#namespaces tr")].map(row => row.innerText)`);
  seen.counters = await evaluate(`document.getElementById("everything").open = true, new Promise(resolve => setTimeout(() => {
    document.getElementById("filter").value = "keyspace"; document.getElementById("filter").dispatchEvent(new Event("input"));
    resolve(document.getElementById("counters").innerText); document.getElementById("everything").open = false; }, 200))`);

  // Keys: to read a chart, and to stop the page.
  await evaluate(`document.querySelector("#chart-ops .chart").focus()`);
  for (const key of ["ArrowLeft", "ArrowLeft"]) await call("Input.dispatchKeyEvent", { type: "keyDown", key, code: key, windowsVirtualKeyCode: 37 });
  seen.spoken = await evaluate(`document.querySelector("#chart-ops [aria-live]").textContent`);
  await call("Input.dispatchKeyEvent", { type: "keyDown", key: "p", text: "p", code: "KeyP", windowsVirtualKeyCode: 80 });
  seen.paused = [await text("state"), await evaluate(`document.getElementById("pause").getAttribute("aria-pressed")`)];
  await call("Input.dispatchKeyEvent", { type: "keyDown", key: "p", text: "p", code: "KeyP", windowsVirtualKeyCode: 80 });
  await call("Runtime.evaluate", { expression: "document.activeElement.blur()" });
  seen.stops = await walk();

  // What a screen reader is told: nothing to reach without a name.
  const { nodes } = await call("Accessibility.getFullAXTree");
  const roles = ["button", "radio", "textbox", "searchbox", "img", "image", "graphics-document", "table", "region", "meter", "group", "DisclosureTriangle"];
  const told = nodes.filter(node => !node.ignored && roles.includes(node.role?.value));
  seen.nameless = told.filter(node => !node.name?.value && node.role.value !== "group").map(node => node.role.value);
  seen.named = told.filter(node => node.name?.value).length;
  seen.screens = [];
  for (const [width, height, device] of [[1366, 900, "desktop"], [360, 740, "phone"]]) {
    for (const scheme of ["light", "dark"]) seen.screens.push(await screen(width, height, scheme, device + "-" + scheme));
  }
  delete seen.at;
  console.log(JSON.stringify(seen));
  end(0);
}
run().catch(error => fail(error.stack));
