// ioredis against a running server: node ioredis.js <port> <folder of node_modules>, exit code 0 if all holds.

const assert = require("node:assert/strict");
const Redis = require(require.resolve("ioredis", { paths: [process.argv[3]] }));

const port = Number(process.argv[2]);

async function single() {
  const redis = new Redis({ port, connectionName: "ioredis", maxRetriesPerRequest: 2 });
  assert.equal(await redis.flushall(), "OK");
  assert.equal(await redis.ping(), "PONG");
  assert.equal(await redis.set("key", "value"), "OK");
  assert.equal(await redis.get("key"), "value");
  assert.equal(await redis.get("nosuch"), null);
  assert.equal(await redis.set("key", "other", "NX"), null);
  assert.equal(await redis.set("key", "other", "EX", 100, "XX", "GET"), "value");
  const ttl = await redis.ttl("key");
  assert.ok(ttl > 98 && ttl <= 100, `ttl ${ttl}`);
  assert.equal(await redis.incrby("counter", 42), 42);
  assert.equal(await redis.incrbyfloat("float", 1.25), "1.25");
  assert.equal(await redis.mset({ a: "1", b: "2", c: "3" }), "OK");
  assert.deepEqual(await redis.mget("a", "nosuch", "c"), ["1", null, "3"]);
  assert.equal(await redis.exists("a", "b", "c", "nosuch"), 3);
  assert.equal(await redis.rename("a", "renamed"), "OK");
  assert.equal(await redis.copy("renamed", "copied"), 1);
  assert.equal(await redis.getdel("copied"), "1");
  assert.equal(await redis.del("renamed", "b", "c"), 3);

  const binary = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 256));
  assert.equal(await redis.set(Buffer.from([0, 255, 13, 10]), binary), "OK");
  assert.ok(binary.equals(await redis.getBuffer(Buffer.from([0, 255, 13, 10]))));

  await assert.rejects(redis.incr("key"), /not an integer/);
  await assert.rejects(redis.call("NOSUCH", "a"), /unknown command/);
  await assert.rejects(redis.call("GET"), /wrong number of arguments/);

  const pipeline = redis.pipeline();
  for (let i = 0; i < 1000; i++) pipeline.set(`piped:${i}`, i).get(`piped:${i}`);
  const replies = await pipeline.exec();
  replies.forEach(([error, reply], i) => {
    assert.equal(error, null);
    assert.equal(reply, i % 2 === 0 ? "OK" : String((i - 1) / 2));
  });

  const seen = new Set();
  for await (const keys of redis.scanStream({ match: "piped:*", count: 50 })) keys.forEach((key) => seen.add(key));
  assert.equal(seen.size, 1000);
  assert.equal((await redis.keys("piped:*")).length, 1000);
  assert.match(await redis.info(), /redis_version:/);
  assert.match(await redis.client("LIST"), /name=ioredis/);
  assert.deepEqual(await redis.config("GET", "appendonly"), ["appendonly", "no"]);

  // A hundred commands at once on one connection, answered each by its own reply.
  const echoes = await Promise.all(Array.from({ length: 100 }, (_, i) => redis.echo(`message ${i}`)));
  echoes.forEach((echo, i) => assert.equal(echo, `message ${i}`));

  const id = await redis.client("ID");
  const other = new Redis({ port });
  assert.equal(await other.client("KILL", "ID", id), 1);
  assert.equal(await redis.ping(), "PONG", "a killed client connects again");
  await other.quit();
  await channels(redis);
  await transactions(redis);
  await redis.quit();
}

async function transactions(redis) {
  const replies = await redis.multi().set("tx:a", 1).incr("tx:b").mget("tx:a", "tx:b").incr("tx:a").exec();
  assert.deepEqual(replies, [[null, "OK"], [null, 1], [null, ["1", "1"]], [null, 2]]);
  await assert.rejects(redis.multi().set("tx:a", 9).call("GET").exec(), /EXECABORT/);
  assert.equal(await redis.get("tx:a"), "2");
  const other = redis.duplicate();
  await redis.watch("tx:a", "tx:b");
  await other.incr("tx:b");
  assert.equal(await redis.multi().set("tx:a", "lost").exec(), null);
  assert.equal(await redis.get("tx:a"), "2");
  await redis.watch("tx:a");
  assert.deepEqual(await redis.multi().del("tx:a", "tx:b").exec(), [[null, 2]]);
  await other.quit();
}

async function channels(redis) {
  const listener = redis.duplicate();
  const heard = [];
  const all = new Promise((resolve) => {
    listener.on("message", (channel, payload) => heard.push(`${channel}:${payload}`) === 200 && resolve());
    listener.on("pmessage", (pattern, channel, payload) => heard.push(`${pattern}:${channel}:${payload}`) === 200 && resolve());
  });
  assert.equal(await listener.subscribe("news", "other"), 2);
  assert.equal(await listener.psubscribe("wea*"), 3);
  for (let i = 0; i < 100; i++) {
    assert.equal(await redis.publish("news", i), 1);
    assert.equal(await redis.publish("weather", i), 1);
  }
  await all;
  assert.deepEqual(heard, Array.from({ length: 100 }, (_, i) => [`news:${i}`, `wea*:weather:${i}`]).flat());
  assert.equal(await listener.unsubscribe("news", "other"), 1);
  assert.equal(await listener.punsubscribe(), 0);
  assert.equal(await listener.get("nosuch"), null, "an ordinary connection again");
  await listener.quit();
}

async function cluster() {
  const redis = new Redis.Cluster([{ host: "127.0.0.1", port }]);
  await Promise.all((await masters(redis)).map((node) => node.flushall()));
  assert.equal((await masters(redis)).length, 4);
  const indexes = Array.from({ length: 1000 }, (_, i) => i);
  await Promise.all(indexes.map((i) => redis.set(`key:${i}`, i)));
  const values = await Promise.all(indexes.map((i) => redis.get(`key:${i}`)));
  assert.deepEqual(values, indexes.map(String));
  const sizes = await Promise.all((await masters(redis)).map((node) => node.dbsize()));
  assert.equal(sizes.reduce((sum, size) => sum + size), 1000, "each node counts the keys of its core");
  assert.ok(sizes.every((size) => size > 100), `the keys lie on all cores: ${sizes}`);
  assert.deepEqual(await redis.mget("{tag}1", "{tag}2"), [null, null]);
  await assert.rejects(redis.mget("a", "b"), /CROSSSLOT|same slot/);
  await redis.quit();
}

async function masters(redis) {
  await redis.ping();
  return redis.nodes("master");
}

(async () => {
  await single();
  await cluster();
  console.log("ioredis passed");
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
