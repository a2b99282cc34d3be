"""redis-py by TLS: python redis_py_tls.py <port of TLS> <port of a core> <authority>, exit code 0 if all holds."""

import sys

import redis
from redis.cluster import ClusterNode, RedisCluster

PORT, CORE_PORT, AUTHORITY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

single = redis.Redis(port=PORT, ssl=True, ssl_ca_certs=AUTHORITY)
assert single.flushall() and single.ping()
large = bytes(range(256)) * 4000
assert single.set("large", large) and single.get("large") == large
with single.pipeline(transaction=False) as pipeline:
    for number in range(2000):
        pipeline.set(f"key:{number}", number)
    assert all(pipeline.execute())
assert single.mget("key:1", "key:1999") == [b"1", b"1999"]
with single.pipeline(transaction=True) as pipeline:
    assert pipeline.incr("counter").incr("counter").execute() == [1, 2]
listener = single.pubsub(ignore_subscribe_messages=True)
listener.subscribe("channel")
while not single.publish("channel", "hello"):
    pass
while (message := listener.get_message(timeout=1)) is None:
    pass
assert message["data"] == b"hello", message
listener.close()

# Nobody who trusts another authority, or none, comes in.
try:
    redis.Redis(port=PORT, ssl=True).ping()
except redis.ConnectionError as error:
    assert "certificate" in str(error).lower(), error
else:
    raise AssertionError("an authority that nobody trusts")

# A cluster client is sent to each core, by TLS as well.
nodes = [ClusterNode("127.0.0.1", CORE_PORT)]
cluster = RedisCluster(startup_nodes=nodes, ssl=True, ssl_ca_certs=AUTHORITY)
for number in range(200):
    assert cluster.get(f"key:{number}") == str(number).encode()
assert len(cluster.get_primaries()) == 2
print("redis-py by TLS: passed")
