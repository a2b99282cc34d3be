// node-redis against a running server: node node_redis.js <port> <folder of node_modules>, exit code 0 if all holds.

const assert = require("node:assert/strict");
const { createClient } = require(require.resolve("redis", { paths: [process.argv[3]] }));

const port = Number(process.argv[2]);

const connect = async (options = {}) => {
  const client = createClient({ socket: { port, host: "127.0.0.1" }, ...options });
  client.on("error", (error) => assert.fail(error));
  return client.connect();
};

// Until `holds`, which is certain to come.
const until = async (what, holds) => {
  for (const deadline = Date.now() + 30_000; !(await holds()); ) {
    assert.ok(Date.now() < deadline, `waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
};

async function commands(RESP) {
  const redis = await connect({ RESP, name: "node-redis" });
  assert.equal(await redis.flushAll(), "OK");
  assert.equal(await redis.set("key", "value", { expiration: { type: "EX", value: 100 } }), "OK");
  assert.equal(await redis.get("key"), "value");
  assert.equal(await redis.get("nosuch"), null);
  const ttl = await redis.ttl("key");
  assert.ok(ttl > 98 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await redis.incrBy("counter", 42), 42);
  assert.equal(await redis.mSet({ a: "1", b: "2" }), "OK");
  assert.deepEqual(await redis.mGet(["a", "nosuch", "b"]), ["1", null, "2"]);
  assert.equal(await redis.del(["a", "b"]), 2);
  await assert.rejects(redis.incr("key"), /not an integer/);
  // Sent at once, answered each by its own reply.
  const echoes = await Promise.all(Array.from({ length: 500 }, (_, i) => redis.echo(`message ${i}`)));
  echoes.forEach((echo, i) => assert.equal(echo, `message ${i}`));
  const found = new Set();
  for (let i = 0; i < 200; i++) await redis.set(`scanned:${i}`, "x");
  for await (const keys of redis.scanIterator({ MATCH: "scanned:*", COUNT: 50 })) [keys].flat().forEach((key) => found.add(key));
  assert.equal(found.size, 200);
  const done = await redis.multi().set("t1", "1").incr("t1").mGet(["t1", "nosuch"]).exec();
  assert.deepEqual(done, ["OK", 2, ["2", null]]);
  await redis.watch("t1");
  const other = await connect({ RESP });
  await other.set("t1", "changed");
  await assert.rejects(redis.multi().set("t1", "lost").exec(), /watched keys/i);
  assert.equal(await redis.get("t1"), "changed");
  await other.select(3);
  assert.equal(await other.get("t1"), null);
  await other.close();
  await redis.close();
}

async function channels(RESP) {
  const speaker = await connect({ RESP });
  const listeners = await Promise.all(Array.from({ length: 8 }, () => connect({ RESP })));
  const heard = listeners.map(() => []);
  await Promise.all(
    listeners.map(async (listener, i) => {
      await listener.subscribe("news", (message) => heard[i].push(message));
      await listener.pSubscribe("wea*", (message, channel) => heard[i].push(`${channel} ${message}`));
      await listener.sSubscribe("shard", (message) => heard[i].push(`shard ${message}`));
    }),
  );
  const expected = [];
  for (let number = 0; number < 20; number++) {
    assert.equal(await speaker.publish("news", String(number)), 8);
    assert.equal(await speaker.publish("weather", String(number)), 8);
    assert.equal(await speaker.sPublish("shard", String(number)), 8);
    expected.push(String(number), `weather ${number}`, `shard ${number}`);
  }
  await until("all is heard", () => heard.every((messages) => messages.length === expected.length));
  heard.forEach((messages) => assert.deepEqual(messages, expected));
  await Promise.all(listeners.map((listener) => listener.unsubscribe("news")));
  assert.equal(await speaker.publish("news", "late"), 0);
  await Promise.all([speaker, ...listeners].map((client) => client.close()));
}

// What a client remembers is forgotten when somebody else writes it, on whichever core.
async function cached() {
  const reader = await connect({ RESP: 3, clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: "LRU" } });
  const writer = await connect({ RESP: 3 });
  for (let key = 0; key < 20; key++) {
    await writer.set(`cached:${key}`, "old");
    assert.equal(await reader.get(`cached:${key}`), "old");
    assert.equal(await reader.get(`cached:${key}`), "old");
    await writer.set(`cached:${key}`, "new");
    await until("the reader knows", async () => (await reader.get(`cached:${key}`)) === "new");
  }
  const calls = async () => Number(/cmdstat_get:calls=(\d+)/.exec(await writer.info("commandstats"))[1]);
  const before = await calls();
  for (let round = 0; round < 50; round++) assert.equal(await reader.get("cached:7"), "new");
  assert.ok((await calls()) - before <= 1, "it asks for what it has");
  await Promise.all([reader.close(), writer.close()]);
}

(async () => {
  for (const RESP of [2, 3]) {
    await commands(RESP);
    await channels(RESP);
  }
  await cached();
  console.log("node-redis passed");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
