// The page: one sample per second from /events, kept for an hour, shown for as long as asked for.

const KEPT = 3600, POINTS = 240;
const past = [];
let shown = 120, paused = false, newest;

const charts = {
  ops: new Chart("chart-ops", { title: "Throughput", names: ["commands", "forwarded"], format: short }),
  lat: new Chart("chart-lat", { title: "Latency", names: ["p50", "p95", "p99", "p99.9"], format: duration, logarithmic: true }),
  hit: new Chart("chart-hit", { title: "Hit ratio", names: ["hits"], format: percent, most: 100 }),
  evict: new Chart("chart-evict", { title: "Evictions and expiries", names: ["evicted", "expired", "rejected"], format: short }),
  net: new Chart("chart-net", { title: "Network", names: ["received", "sent"], format: bytes, base: 1024 }),
};

const last = list => list[list.length - 1];
const set = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };

// Counters that only grow become rates; a restart or CONFIG RESETSTAT begins anew.
function keep(stats) {
  const { counters, shard, log, latency_all: latency } = stats.total;
  const sample = { now: stats.server.unix_time_us / 1e6, run: stats.server.run_id, counters, shard, log, minute: latency.minute,
    cpu: stats.process.cpu_user_us + stats.process.cpu_system_us, cores: stats.cores, commands: stats.total.commands };
  const before = last(past);
  if (before && (before.run !== sample.run || before.counters.commands_processed > counters.commands_processed)) past.length = 0;
  past.push(sample);
  if (past.length > KEPT) past.shift();
}

function rate(pick, index) {
  const sample = past[index], before = past[index - 1];
  // Nothing is known about a time without samples.
  if (!before || sample.now <= before.now || sample.now - before.now > 5) return NaN;
  return Math.max(0, (pick(sample) - pick(before)) / (sample.now - before.now));
}
const rateNow = pick => rate(pick, past.length - 1);

function ratio(from, to) {
  const hits = to.shard.keyspace_hits - from.shard.keyspace_hits, misses = to.shard.keyspace_misses - from.shard.keyspace_misses;
  return hits + misses > 0 ? 100 * hits / (hits + misses) : NaN;
}

// The samples of the time shown, several to a point when there are many.
function points() {
  const first = Math.max(0, past.length - shown), step = Math.max(1, Math.ceil((past.length - first) / POINTS));
  const groups = [];
  for (let end = past.length; end > first; end -= step) groups.unshift([Math.max(first, end - step), end]);
  return groups;
}
function line(groups, value) {
  return groups.map(([from, to]) => {
    const values = [];
    for (let index = from; index < to; index++) {
      const one = value(index);
      if (isFinite(one)) values.push(one);
    }
    return values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : NaN;
  });
}

function drawCharts() {
  const groups = points(), times = groups.map(([, to]) => past[to - 1].now);
  const rates = pick => line(groups, index => rate(pick, index));
  charts.ops.show(times, [rates(s => s.counters.commands_processed), rates(s => s.counters.commands_forwarded_out)]);
  charts.lat.show(times, ["p50_us", "p95_us", "p99_us", "p999_us"].map(name =>
    line(groups, index => past[index].minute.count ? past[index].minute[name] : NaN)));
  charts.hit.show(times, [line(groups, index => index ? ratio(past[index - 1], past[index]) : NaN)]);
  charts.evict.show(times, [rates(s => s.shard.keys_evicted), rates(s => s.shard.keys_expired), rates(s => s.shard.keys_rejected)]);
  charts.net.show(times, [rates(s => s.counters.bytes_received), rates(s => s.counters.bytes_sent)]);
}

function rows(id, lines) {
  $(id).tBodies[0].replaceChildren(...lines.map(cells => make("tr", {}, ...cells.map((cell, index) =>
    make(index ? "td" : "th", index ? {} : { scope: "row" }, ...[cell].flat())))));
}
function facts(id, entries) {
  $(id).replaceChildren(...entries.flatMap(([name, value, bad]) => [make("dt", {}, name), make("dd", bad ? { class: "bad" } : {}, value)]));
}

function drawTiles(stats) {
  const { server, process, total } = stats, { counters, shard } = total, sample = last(past);
  const minuteAgo = past.findLast(other => other.now <= sample.now - 60) || past[0];
  set("about", server.version + " · port " + server.port + " · " + server.cores + (server.cores === 1 ? " core" : " cores") + " · up " + span(server.uptime_us / 1e6));
  set("ops", short(rateNow(s => s.counters.commands_processed)));
  set("ops-more", short(counters.commands_processed) + " since the start");
  set("hits", percent(ratio(minuteAgo, sample)));
  set("hits-more", percent(100 * shard.keyspace_hits / (shard.keyspace_hits + shard.keyspace_misses)) + " since the start");
  set("p99", duration(sample.minute.count ? sample.minute.p99_us : NaN));
  set("p99-more", sample.minute.count ? "p50 " + duration(sample.minute.p50_us) + ", longest " + duration(sample.minute.max_us) : "");
  const bound = server.memory_bytes_max;
  set("memory", bytes(shard.memory_bytes));
  set("memory-more", (bound ? (100 * shard.memory_bytes / bound).toFixed(0) + " % of " + bytes(bound) : "without a bound") + ", " + bytes(process.rss_bytes) + " resident");
  set("keys", short(shard.keys));
  set("keys-more", short(shard.keys_with_expiry) + " with an expiry");
  set("evicted", short(rateNow(s => s.shard.keys_evicted)));
  set("evicted-more", short(rateNow(s => s.shard.keys_expired)) + " expired per second");
  set("clients", short(counters.connections_current));
  set("clients-more", "of " + short(server.clients_max) + ", " + short(rateNow(s => s.counters.connections_accepted)) + " new per second");
  set("cpu", percent(rateNow(s => s.cpu) / 1e4));
  set("cpu-more", "of " + 100 * server.cores + " %");
}

function drawMemory({ total: { shard }, process }) {
  const kinds = [
    ["Keys and values", shard.payload_bytes],
    ["Around them", Math.max(0, shard.item_bytes + shard.large_value_bytes - shard.payload_bytes)],
    ["Index", shard.index_bytes - shard.deadline_bytes],
    ["Deadlines", shard.deadline_bytes],
    ["History", shard.history_bytes],
    ["Gaps and free segments", shard.gap_bytes + shard.free_bytes],
    ["Code, buffers, clients", Math.max(0, process.rss_bytes - shard.memory_bytes)],
  ];
  const sum = kinds.reduce((sum, [, size]) => sum + size, 0) || 1;
  rows("kinds", kinds.map(([name, size], index) =>
    [[make("span", { class: "swatch", style: "background:" + COLOURS[index] }), name], bytes(size), percent(100 * size / sum)]));
  $("bar").replaceChildren(...kinds.map(([, size], index) => make("div", { style: "width:" + 100 * size / sum + "%;background:" + COLOURS[index] })));
}

function drawCores(cores) {
  const rates = cores.map((_, index) => rateNow(s => s.cores[index].counters.commands_processed));
  const most = Math.max(...rates.filter(isFinite), 1), mean = rates.reduce((sum, one) => sum + one, 0) / rates.length;
  set("balance", mean >= 1 ? "the busiest core does " + (most / mean).toFixed(2) + " times the average" : "idle");
  rows("cores", cores.map((core, index) => {
    const each = pick => short(rateNow(s => pick(s.cores[index])));
    const name = "core " + core.core + ", part of the busiest";
    return [String(core.core), [make("span", {}, short(rates[index])), " ",
      make("meter", { min: 0, max: most, value: isFinite(rates[index]) ? rates[index] : 0, "aria-label": name })],
      String(core.counters.connections_current), short(core.shard.keys), bytes(core.shard.memory_bytes),
      each(s => s.counters.commands_forwarded_out), each(s => s.counters.commands_forwarded_in), each(s => s.shard.keys_evicted)];
  }));
  for (const row of $("cores").tBodies[0].rows) row.cells[1].className = "share";
}

function drawFacts({ total: { counters, log, shard, errors }, cores }) {
  const each = name => short(rateNow(s => s.counters[name])) + " /s";
  const some = name => [short(counters[name]), counters[name] > 0];
  facts("connections", [
    ["Open", short(counters.connections_current)], ["Accepted", each("connections_accepted")], ["Closed", each("connections_closed")],
    ["Listening to channels", short(counters.subscribers_current)],
    ["Refused: too many", ...some("connections_refused")], ["Refused: address", ...some("connections_refused_by_address")],
    ["Failed to authenticate", ...some("authentications_failed")], ["Closed: silent", short(counters.connections_closed_by_silence)],
    ["Closed: took no replies", ...some("connections_closed_by_output_bound")], ["Accepts that failed", ...some("accept_errors")],
  ]);
  $("wal").hidden = !log.enabled;
  $("wal-off").hidden = Boolean(log.enabled);
  if (log.enabled) {
    const state = log.failed ? "failed" : log.refusing ? "refuses writes" : log.loading ? "being read" : log.rewriting ? "being rewritten" : "well";
    const oldest = Math.min(...cores.map(core => core.log.last_sync_unix_ms));
    const synced = oldest ? duration(Math.max(0, last(past).now * 1e6 - oldest * 1e3)) + " ago" : "–";
    facts("wal", [
      ["State", state, log.failed || log.refusing], ["Records", short(rateNow(s => s.log.records)) + " /s"], ["Made durable", short(rateNow(s => s.log.syncs)) + " /s"],
      ["Written", bytes(rateNow(s => s.log.bytes_written)) + "/s"], ["Of it copied again", bytes(rateNow(s => s.log.bytes_copied)) + "/s"],
      ["On disk", bytes(log.disk_bytes)], ["A start would read", bytes(log.log_bytes)], ["Waits to be written", bytes(log.backlog_bytes)], ["Last durable", synced],
    ]);
  }
  const failed = Object.entries(errors).sort((a, b) => b[1] - a[1]);
  $("errors-none").hidden = failed.length > 0;
  facts("errors", failed.map(([code, count]) => [code, short(count)]));
  const problems = [];
  if (log.failed) problems.push("The log has failed: writes are refused until a restart.");
  else if (log.refusing) problems.push("There is no space for the log: writes are refused until there is.");
  if (log.loading) problems.push("The log is being read: keys are not answered yet.");
  if (rateNow(s => s.shard.writes_refused) > 0) problems.push("Writes are refused: the memory is full.");
  if (rateNow(s => s.counters.connections_refused) > 0) problems.push("Clients are refused: there are as many as there may be.");
  if (shard.pressed > 0) problems.push(shard.pressed + " of the cores have so little room that every write has to make some.");
  const wanted = problems.join("\n");
  if ($("problems").dataset.told !== wanted) {
    $("problems").dataset.told = wanted;
    $("problems").replaceChildren(...problems.map(problem => make("li", {}, problem)));
  }
}

function drawWhatIf({ total: { shard }, server }) {
  const look_ups = shard.what_if_look_ups;
  if (!look_ups) {
    $("what-if").replaceChildren(make("p", { class: "none" }, "No estimate yet: it takes look-ups under a ceiling of memory."));
    return;
  }
  const curve = [["½ ×", .5, shard.what_if_hits_at_half], ["1 ×", 1, shard.what_if_hits_at_same], ["2 ×", 2, shard.what_if_hits_at_double],
    ["4 ×", 4, shard.what_if_hits_at_quadruple]].map(([name, factor, hits]) => ({ name, factor, percent: 100 * hits / look_ups }));
  const width = Math.max($("what-if").clientWidth, 200), left = 46, right = width - 30, top = 22, bottom = 130;
  const low = Math.max(0, Math.floor(Math.min(...curve.map(point => point.percent)) / 10) * 10 - 10);
  const x = index => left + 20 + (right - left - 20) * index / 3, y = value => bottom - (bottom - top) * (value - low) / (100 - low);
  const told = curve.map(({ name, percent: value }) => name.replace(" ×", " times the memory") + " " + percent(value)).join(", ");
  const svg = make("svg", { viewBox: "0 0 " + width + " 164", class: "taller", role: "img", "aria-label": "Hit ratio by memory: " + told });
  for (const tick of [low, (low + 100) / 2, 100]) {
    svg.append(make("line", { class: "grid", x1: left, x2: width, y1: y(tick), y2: y(tick) }), make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick + " %"));
  }
  svg.append(make("polyline", { points: curve.map((point, index) => x(index) + "," + y(point.percent)).join(" "), fill: "none", stroke: COLOURS[3], "stroke-width": 2 }));
  curve.forEach(({ name, factor, percent: value }, index) => {
    svg.append(make("circle", { cx: x(index), cy: y(value), r: factor === 1 ? 5 : 3.5, fill: COLOURS[3] }),
      make("text", { class: "strong", x: x(index), y: y(value) - 9, "text-anchor": "middle" }, value.toFixed(1)),
      make("text", { x: x(index), y: 146, "text-anchor": "middle" }, name),
      make("text", { x: x(index), y: 160, "text-anchor": "middle" }, server.memory_bytes_max ? bytes(server.memory_bytes_max * factor).replace(".0", "") : ""));
  });
  $("what-if").replaceChildren(make("div", { class: "chart" }, svg));
}

// Whatever is told by namespace: one row each, one column for each number.
function drawNamespaces(stats) {
  const told = stats.namespaces || stats.total.namespaces || [];
  const list = Array.isArray(told) ? told : Object.entries(told).map(([name, fields]) => ({ name, ...fields }));
  $("namespaces-section").hidden = list.length === 0;
  if (!list.length) return;
  const columns = [...new Set(list.flatMap(Object.keys))].filter(column => column !== "name");
  const words = name => { const text = name.replace(/_bytes\b/, "").replaceAll("_", " "); return text[0].toUpperCase() + text.slice(1); };
  const head = ["Name", ...columns.map(words)].map(name => make("th", { scope: "col" }, name));
  $("namespaces").tHead.rows[0].replaceChildren(...head);
  const shownAs = (column, value) => typeof value !== "number" ? String(value ?? "–") : column.includes("bytes") ? bytes(value) : short(value);
  rows("namespaces", list.map(entry => [String(entry.name), ...columns.map(column => shownAs(column, entry[column]))]));
}

function drawCommands({ total }) {
  const list = Object.entries(total.commands).sort((a, b) => b[1].calls - a[1].calls).slice(0, 20);
  rows("commands", list.map(([name, count]) => {
    const times = ((total.latency || {})[name] || {}).minute || {};
    const spread = ["p50_us", "p95_us", "p99_us", "p999_us", "max_us"].map(field => times.count ? duration(times[field]) : "–");
    return [name.replace("|", " ").toUpperCase(), short(rateNow(s => (s.commands[name] || { calls: 0 }).calls)), short(count.calls), short(count.failed), ...spread];
  }));
}

function drawCounters({ total }) {
  if (!$("everything").open) return;
  const wanted = $("filter").value.trim().toLowerCase();
  const lines = ["counters", "shard", "log"].flatMap(part => Object.entries(total[part]).map(([name, value]) => {
    const shownValue = /_bytes|bytes_/.test(name) ? bytes(value) : value.toLocaleString("en-US");
    return [part + "." + name, shownValue, short(rateNow(s => s[part][name]))];
  }));
  rows("counters", lines.filter(([name]) => name.includes(wanted)));
}

function drawHot(keys) {
  const most = Math.max(...keys.map(({ count }) => count), 1);
  $("hot-none").hidden = keys.length > 0;
  $("hot").replaceChildren(...keys.map(({ key, count }) => make("li", {}, make("i", { style: "width:" + 100 * count / most + "%" }),
    make("code", { title: key }, key), make("span", { class: "amount" }, short(count)))));
}

function draw() {
  if (!newest) return;
  drawTiles(newest);
  drawCharts();
  drawMemory(newest);
  drawCores(newest.cores);
  drawFacts(newest);
  drawWhatIf(newest);
  drawNamespaces(newest);
  drawCommands(newest);
  drawCounters(newest);
  // What is too wide has to be reached by keyboard.
  for (const box of document.querySelectorAll(".scroll")) {
    const wide = box.scrollWidth > box.clientWidth;
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", (box.querySelector("caption") || {}).textContent]]) {
      if (wide) box.setAttribute(name, value); else box.removeAttribute(name);
    }
  }
}

function say(text, kind) {
  set("state", text);
  $("state").className = kind;
}

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { authorization: "Bearer " + token } : {};
}

async function watchHotKeys() {
  try {
    const response = await fetch("hotkeys?count=12", { headers: headers() });
    if (response.ok && !paused) drawHot(await response.json());
  } catch { /* the other connection says that nobody answers */ }
  setTimeout(watchHotKeys, 3000);
}

// Read with fetch rather than EventSource, which cannot send a token.
async function watch() {
  try {
    const response = await fetch("events", { headers: headers() });
    if (response.status === 401 || response.status === 403) {
      $("ask").hidden = false;
      return say(sessionStorage.getItem("token") ? "this token is not enough" : "a token is needed", "bad");
    }
    if (!response.ok) throw new Error("status " + response.status);
    $("ask").hidden = true;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the connection ended");
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const data = text.slice(0, end).split("\n").find(line => line.startsWith("data: "));
        const stats = JSON.parse(data.slice(6));
        if (!stats.total) { say("the server does not answer", "bad"); continue; }
        keep(stats);
        say(paused ? "paused" : "live", paused ? "waiting" : "live");
        if (!paused) { newest = stats; draw(); }
      }
    }
  } catch (error) {
    say("no connection, trying again", "bad");
    setTimeout(watch, 2000);
  }
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  say(paused ? "paused" : "live", paused ? "waiting" : "live");
}

$("pause").addEventListener("click", pause);
document.addEventListener("keydown", event => {
  const typing = event.target.matches("input:not([type=radio])");
  if (event.key === "p" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) pause();
});
$("range").addEventListener("change", event => { shown = Number(event.target.value); draw(); });
$("everything").addEventListener("toggle", draw);
$("filter").addEventListener("input", draw);
$("ask").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  watch();
});
watch();
watchHotKeys();
