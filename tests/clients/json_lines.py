"""JSON lines judged by the shipped schema and a validator that is not ours: every request that is carried out is valid
by it, every other one is not, and everything the server says is."""

import base64
import json
import socket
import sys

import jsonschema

port, schema_path = int(sys.argv[1]), sys.argv[2]
with open(schema_path) as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)


def validator(name):
    return jsonschema.Draft202012Validator({**schema, "oneOf": [{"$ref": f"#/$defs/{name}"}]})


request_validator, reply_validator, message_validator = validator("request"), validator("reply"), validator("message")
checked = 0


class Connection:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rwb")

    def send(self, line):
        self.file.write(line + b"\n")
        self.file.flush()

    def line(self):
        global checked
        checked += 1
        line = self.file.readline()
        assert line.endswith(b"\n"), line
        return json.loads(line)

    def reply(self):
        reply = self.line()
        reply_validator.validate(reply)
        return reply

    def ask(self, **request):
        """A request that is right, and its result."""
        request_validator.validate(request)
        self.send(json.dumps(request).encode())
        reply = self.reply()
        assert reply.get("id") == request.get("id"), (request, reply)
        assert "result" in reply, (request, reply)
        return reply["result"]

    def refused(self, line, code):
        if isinstance(line, dict):
            assert not request_validator.is_valid(line), f"the schema takes {line}"
            line = json.dumps(line).encode()
        self.send(line)
        reply = self.reply()
        assert reply["error"]["code"] == code, (line, reply)


connection = Connection()
ask, refused = connection.ask, connection.refused
assert ask(action="PING") == "PONG"
assert ask(action="SET", key="foo", value="bar", ttl=60) == "OK"
assert ask(action="GET", key="foo", id=1) == "bar"
assert ask(action="GET", key="absent", id="b") is None
assert 59 <= ask(action="TTL", key="foo") <= 60
assert ask(action="EXPIRE", key="foo", ttl=100) == 1
word, token = ask(action="GET", key="missed", fill=5000, stale=10)
assert word == "FILL" and len(token) == 16
assert ask(action="SET", key="missed", value="x", fill="0123456789abcdef") is None
assert ask(action="SET", key="missed", value="found", ttl=60, fill=token) == "OK"
assert ask(action="GET", key="missed", fill=5000) == "found"
assert ask(action="GET", key="missed", fill=5000, stale=100_000)[::2] == ["FILL", "found"]
refused({"action": "GET", "key": "missed", "stale": 5}, "MISSINGFIELD")
every_byte = bytes(range(256))
assert ask(action="SET", key="bytes", value_b64=base64.b64encode(every_byte).decode()) == "OK"
assert base64.b64decode(ask(action="GET", key="bytes")["value_b64"]) == every_byte
text = "".join(map(chr, range(0xD800))) + "\U0001f980"
assert ask(action="SET", key="text", value=text) == "OK"
assert ask(action="GET", key="text") == text
large = "l" * 1_000_000
assert ask(action="SET", key="large", value=large) == "OK"
assert ask(action="GET", key="large", id=2.5) == large
values = {f"many:{i}": str(i) for i in range(100)}
assert ask(action="MSET", values={**values, "odd": {"value_b64": "/w=="}}) == "OK"
assert ask(action="MGET", keys=[*values, "absent", "odd"]) == [*values.values(), None, {"value_b64": "/w=="}]
assert ask(action="EXISTS", keys=list(values)) == 100
assert ask(action="DEL", keys=list(values)) == 100
assert ask(action="DEL", key="foo") == 1
assert ask(action="EXISTS", key="foo") == 0
assert ask(action="INCR", key="n") == 1
assert ask(action="INCR", key="n", by=-10) == -9
assert ask(action="SET", key="k", value="here", namespace="ns") == "OK"
assert ask(action="GET", key="ns^k") == "here" and ask(action="GET", key="k") is None
assert ask(action="STATS")["total"]["counters"]["commands_processed"] > 10

connection.send(json.dumps({"action": "INCR", "key": "text", "id": 9}).encode())
assert connection.reply() == {"id": 9, "error": {"code": "ERR", "message": "value is not an integer or out of range"}}

bad = [
    ({}, "MISSINGFIELD"),
    ({"action": "GET"}, "MISSINGFIELD"),
    ({"action": "SET", "key": "k"}, "MISSINGFIELD"),
    ({"action": "DEL", "keys": []}, "MISSINGFIELD"),
    ({"action": "FLUSHALL"}, "UNKNOWNACTION"),
    ({"action": "get", "key": "k"}, "UNKNOWNACTION"),
    ({"action": "GET", "key": "k", "extra": 1}, "UNKNOWNFIELD"),
    ({"action": "PING", "key": "k"}, "UNKNOWNFIELD"),
    ({"action": "GET", "key": 5}, "FIELDTYPE"),
    ({"action": "GET", "key": "k", "namespace": None}, "FIELDTYPE"),
    ({"action": "EXPIRE", "key": "k", "ttl": 1.5}, "FIELDTYPE"),
    ({"action": "INCR", "key": "k", "by": 2**63}, "OUTOFRANGE"),
    ({"action": "SET", "key": "k", "value_b64": "?"}, "BADBASE64"),
    ({"action": "GET", "key": "k", "namespace": "a^b"}, "BADNAMESPACE"),
    ({"action": "GET", "key": "k", "namespace": "a b"}, "BADNAMESPACE"),
    ({"action": "GET", "key": "k", "namespace": "\0server"}, "BADNAMESPACE"),
    ([], "BADJSON"),
]
for line, code in bad:
    refused(line if isinstance(line, dict) else json.dumps(line).encode(), code)
for line, code in [
    (b"garbage", "BADJSON"),
    (b'{"action":"GET","key":"\xff"}', "BADUTF8"),
    (b'{"action":"GET","key":' + b"[" * 50, "TOODEEP"),
    (b'{"action":"GET","key":"' + b"k" * 9_000_000 + b'"}', "TOOLONG"),
]:
    refused(line, code)

# Garbage between good lines, all at once: as many replies, each for its line.
lines = []
for i in range(200):
    lines += [json.dumps({"action": "SET", "key": f"g:{i}", "value": str(i), "id": i}).encode(), b"}{", b"\xff\xfe"]
connection.send(b"\n".join(lines))
for i in range(200):
    assert connection.reply() == {"id": i, "result": "OK"}
    assert connection.reply()["error"]["code"] == "BADJSON"
    assert connection.reply()["error"]["code"] == "BADUTF8"
assert ask(action="MGET", keys=[f"g:{i}" for i in range(200)]) == [str(i) for i in range(200)]

listener = Connection()
assert listener.ask(action="SUBSCRIBE", channels=["news", "other"]) == {"subscribed": ["news", "other"], "count": 2}
assert ask(action="PUBLISH", channel="news", message="héllo") == 1
assert ask(action="PUBLISH", channel="other", message_b64="/w==") == 1
for message in ({"channel": "news", "message": "héllo"}, {"channel": "other", "message_b64": "/w=="}):
    line = listener.line()
    message_validator.validate(line)
    assert line == message, line
# Whoever listens may do anything else meanwhile.
assert listener.ask(action="GET", key="n", id="x") == "-9"
assert listener.ask(action="UNSUBSCRIBE", channel="news") == {"unsubscribed": ["news"], "count": 1}
assert listener.ask(action="UNSUBSCRIBE") == {"unsubscribed": ["other"], "count": 0}
assert ask(action="PUBLISH", channel="news", message="m") == 0

print(f"{checked} lines passed")
