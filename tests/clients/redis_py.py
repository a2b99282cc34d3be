"""redis-py against a running server: python redis_py.py <port>, exit code 0 if all holds."""

import sys
import threading
import time

import redis
from redis.cache import CacheConfig
from redis.cluster import ClusterNode, RedisCluster

PORT = int(sys.argv[1])


def expect_error(text, call):
    try:
        call()
    except redis.ResponseError as error:
        assert text in str(error), f"{text!r} is not in {error!r}"
    else:
        raise AssertionError(f"no error with {text!r}")


def single(protocol, decode):
    r = redis.Redis(port=PORT, protocol=protocol, decode_responses=decode, client_name="redis-py")
    own = (lambda text: text) if decode else (lambda text: text.encode())
    assert r.flushall()
    assert r.ping()
    assert r.echo("hello") == own("hello")
    assert r.set("key", "value")
    assert r.get("key") == own("value")
    assert r.get("nosuch") is None
    assert r.set("key", "other", nx=True) is None
    assert r.set("key", "other", xx=True, get=True) == own("value")
    assert r.set("timed", "value", ex=100) and 98 < r.ttl("timed") <= 100
    assert r.set("timed", "value", px=100_000) and 98_000 < r.pttl("timed") <= 100_000
    assert r.persist("timed") and r.ttl("timed") == -1
    assert r.expire("timed", 50) and r.expire("timed", 10, gt=True) == 0
    assert r.expireat("timed", 33177117420) and r.expiretime("timed") == 33177117420
    assert r.getex("timed", persist=True) == own("value")
    assert r.psetex("timed", 10_000, "v") and r.setnx("timed", "v") is False
    assert r.incr("counter") == 1 and r.incrby("counter", 41) == 42 and r.decrby("counter", 2) == 40
    assert r.incrbyfloat("float", 1.5) == 1.5
    assert r.append("key", "!") == 6 and r.strlen("key") == 6 and r.getrange("key", 0, 1) == own("ot")
    assert r.setrange("key", 5, "?") == 6 and r.substr("key", 5) == own("?")
    many = {f"many:{i}": str(i) for i in range(500)}
    assert r.mset(many)
    assert r.mget(list(many)) == [own(value) for value in many.values()]
    assert r.msetnx({"many:1": "x", "fresh": "x"}) in (False, 0)
    assert r.exists(*many) == 500 and r.touch(*many) == 500
    assert set(r.scan_iter(match="many:*", count=50)) == {own(key) for key in many}
    assert len(r.keys("many:*")) == 500
    assert r.randomkey() is not None
    assert r.delete(*many) == 500 and r.unlink("float") == 1
    assert r.rename("key", "renamed") and r.copy("renamed", "copied") and r.type("copied") == own("string")
    assert r.getdel("copied") == own("other?") and r.getset("renamed", "new") == own("other?")
    assert r.dbsize() == 3, r.keys()
    assert r.renamenx("renamed", "timed") in (False, 0)

    binary = bytes(range(256)) * 400
    raw = redis.Redis(port=PORT, protocol=protocol)
    assert raw.set(b"\x00\xff\r\n", binary) and raw.get(b"\x00\xff\r\n") == binary

    expect_error("not an integer", lambda: r.incr("renamed"))
    expect_error("wrong number of arguments", lambda: r.execute_command("GET"))
    expect_error("unknown command", lambda: r.execute_command("NOSUCH", "a"))
    expect_error("syntax error", lambda: r.execute_command("SET", "a", "b", "NX", "XX"))

    with r.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"piped:{i}", i)
            pipe.get(f"piped:{i}")
        assert pipe.execute() == [item for i in range(1000) for item in (True, own(str(i)))]
    with r.pipeline(transaction=False) as pipe:
        pipe.set("a", "word").incr("a").get("a")
        ok, error, value = pipe.execute(raise_on_error=False)
        assert ok and isinstance(error, redis.ResponseError) and value == own("word")

    assert r.client_getname() in ("redis-py", b"redis-py")
    assert any(client["name"] == "redis-py" for client in r.client_list())
    assert r.client_info()["id"] == r.client_id()
    assert r.info("server")["redis_version"] and r.info()["connected_clients"] >= 1
    assert r.config_get("appendonly") == {"appendonly": "no"}
    assert len(r.time()) == 2
    assert r.command_count() > 50
    assert r.command_getkeys("MSET", "a", "1", "b", "2") in (["a", "b"], [b"a", b"b"])
    assert "get" in {name if isinstance(name, str) else name.decode() for name in r.command()}
    assert r.select(0)
    databases(own, protocol)

    channels(r, own)
    transactions(r, own)

    other = redis.Redis(port=PORT, protocol=protocol)
    other_id = other.client_id()
    assert r.client_kill_filter(_id=other_id) == 1
    assert other.ping(), "a killed client connects again"


def databases(own, protocol):
    """Clients that are told a number of a database, and nothing else."""
    zero, one, two = (redis.Redis(port=PORT, protocol=protocol, db=db, decode_responses=own("") == "") for db in range(3))
    one.flushdb()
    two.flushdb()
    zero.set("db:key", "zero")
    one.set("db:key", "one")
    one.mset({f"db:{i}": i for i in range(20)})
    assert zero.get("db:key") == own("zero") and one.get("db:key") == own("one") and two.get("db:key") is None
    assert one.dbsize() == 21 and two.dbsize() == 0
    assert len(set(one.scan_iter("db:*"))) == 21 and own("db:7") in one.keys()
    assert one.move("db:key", 2) == 1 and one.move("db:key", 2) == 0
    assert two.get("db:key") == own("one")
    assert two.copy("db:key", "copied", destination_db=1) and one.get("copied") == own("one")
    with one.pipeline(transaction=True) as pipe:
        pipe.incr("counted").get("counted").move("counted", 0)
        assert pipe.execute() == [1, own("1"), True]
    assert zero.getdel("counted") == own("1")
    assert {client["db"] for client in zero.client_list()} >= {"0", "1", "2"}
    assert zero.swapdb(1, 2) and two.dbsize() == 21 and one.dbsize() == 1
    assert zero.swapdb(2, 1) and one.dbsize() == 21 and two.dbsize() == 1
    one.flushdb()
    assert one.dbsize() == 0 and zero.get("db:key") == own("zero") and two.dbsize() == 1
    two.flushdb()
    zero.delete("db:key")


def transactions(r, own):
    keys = [f"moved:{i}" for i in range(8)]
    with r.pipeline(transaction=True) as pipe:
        for key in keys:
            pipe.set(key, 1).incr(key)
        pipe.mget(keys)
        replies = pipe.execute()
    assert replies[-1] == [own("2")] * 8 and replies[:2] == [True, 2], replies
    with r.pipeline(transaction=True) as pipe:
        pipe.set("word", "x").incr("word").get("word")
        ok, error, value = pipe.execute(raise_on_error=False)
        assert ok and isinstance(error, redis.ResponseError) and value == own("x")
    with r.pipeline() as pipe:
        pipe.watch(*keys)
        assert r.incr(keys[3]) == 3
        pipe.multi()
        pipe.set(keys[0], "lost")
        try:
            pipe.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("a watched key had changed")
    assert r.get(keys[0]) == own("2")

    def count(pipe):
        value = int(pipe.get("count") or 0)
        pipe.multi()
        pipe.set("count", value + 1)

    for _ in range(20):
        assert r.transaction(count, "count") == [True]
    assert r.get("count") == own("20")
    assert r.delete("word", "count", *keys) == 10


def channels(r, own):
    """Listeners on several cores, whichever those are."""
    listeners = [r.pubsub(ignore_subscribe_messages=True) for _ in range(8)]
    for listener in listeners:
        listener.subscribe("news")
        listener.psubscribe("wea*")
        # The confirmations, which are ignored: None.
        for _ in range(2):
            assert listener.get_message(timeout=20) is None
    for number in range(20):
        assert r.publish("news", number) == 8
        assert r.publish("weather", number) == 8
    for listener in listeners:
        for number in range(20):
            for kind, channel in (("message", "news"), ("pmessage", "weather")):
                message = listener.get_message(timeout=20)
                assert (message["type"], message["channel"]) == (kind, own(channel)), message
                assert message["data"] == own(str(number)), message
    assert r.pubsub_numsub("news", "nosuch") == [(own("news"), 8), (own("nosuch"), 0)]
    assert r.pubsub_channels() == [own("news")] and r.pubsub_numpat() == 1
    for listener in listeners:
        listener.close()


def cached():
    """What a client remembers is forgotten when somebody else writes it, on whichever core."""
    reader = redis.Redis(port=PORT, protocol=3, decode_responses=True, cache_config=CacheConfig())
    writer = redis.Redis(port=PORT, protocol=3, decode_responses=True)
    for number in range(20):
        key = f"cached:{number}"
        writer.set(key, "old")
        assert reader.get(key) == "old" and reader.get(key) == "old"
        writer.set(key, "new")
        deadline = time.monotonic() + 30
        while reader.get(key) != "new":
            assert time.monotonic() < deadline, "nobody has told the reader"
    before = writer.info("commandstats")["cmdstat_get"]["calls"]
    for _ in range(50):
        assert reader.get("cached:7") == "new"
    assert writer.info("commandstats")["cmdstat_get"]["calls"] - before <= 1, "it asks for what it has"
    writer.delete(*[f"cached:{number}" for number in range(20)])


def filled(protocol):
    """Of twenty threads that miss a key one fills it in."""
    answers = []

    def ask():
        r = redis.Redis(port=PORT, protocol=protocol, decode_responses=True)
        answer = r.execute_command("GETFILL", "page", 30_000)
        if isinstance(answer, list):
            assert r.execute_command("SET", "page", "<html>", "FILL", answer[1]) in (True, "OK")
            answers.append("filled")
        else:
            answers.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["<html>"] * 19 + ["filled"], answers
    redis.Redis(port=PORT).delete("page")


def cluster(protocol):
    r = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", PORT)], protocol=protocol, decode_responses=True)
    assert r.flushall(target_nodes="primaries")
    nodes = r.get_primaries()
    assert len(nodes) == 4, nodes
    assert len({node.port for node in nodes}) == 4 and PORT not in {node.port for node in nodes}
    for i in range(1000):
        assert r.set(f"key:{i}", i)
    assert [r.get(f"key:{i}") for i in range(1000)] == [str(i) for i in range(1000)]
    assert r.dbsize(target_nodes="primaries") == 1000
    assert len(list(r.scan_iter(match="key:*", count=100))) == 1000
    assert len(r.keys("key:*", target_nodes="primaries")) == 1000
    assert r.mget_nonatomic([f"key:{i}" for i in range(100)]) == [str(i) for i in range(100)]
    assert r.mset_nonatomic({f"more:{i}": i for i in range(100)})
    assert r.mget("{tag}1", "{tag}2") == [None, None]
    with r.pipeline() as pipe:
        for i in range(200):
            pipe.incr(f"key:{i}")
        assert pipe.execute() == [i + 1 for i in range(200)]
    assert r.delete(*[f"key:{i}" for i in range(1000)]) == 1000
    slot = r.keyslot("somekey")
    assert slot == 11058 and r.cluster_keyslot("somekey") == slot
    assert r.set("somekey", "v") and r.cluster_countkeysinslot(slot) == 1
    assert r.cluster_get_keys_in_slot(slot, 10) == ["somekey"]
    assert r.cluster_info()["cluster_state"] == "ok"
    assert len(r.cluster_nodes()) == 4

    # Nothing of all that was forwarded: every key went straight to the core that owns it.
    on_one_core = redis.Redis(port=nodes[0].port, protocol=protocol)
    foreign = next(f"key:{i}" for i in range(100) if r.get_node_from_key(f"key:{i}") != nodes[0])
    expect_error(foreign_slot(r, foreign), lambda: on_one_core.get(foreign))


def foreign_slot(cluster_client, key):
    """What redis-py leaves of `MOVED slot host:port`."""
    return f"{cluster_client.keyslot(key)} 127.0.0.1:{cluster_client.get_node_from_key(key).port}"


for protocol in (2, 3):
    for decode in (False, True):
        single(protocol, decode)
    filled(protocol)
    cluster(protocol)
cached()
print("redis-py", redis.__version__, "passed")
