"""A client of the binary protocol, written from PROTOCOL.md alone, and what it expects of the server.

Usage: binary.py PORT
"""

import socket
import struct
import sys

MAGIC, VERSION = 0xCB, 1
OK, NIL, PONG = object(), object(), object()


class Error(Exception):
    """An error reply; equal by its text."""

    def __eq__(self, other):
        return isinstance(other, Error) and self.args == other.args


class Text(bytes):
    """A status line or text for people."""


# ---- requests -------------------------------------------------------------------------------------


def plain(opcode):
    return struct.pack("<BB", opcode, 0)


def with_key(opcode, key, flags=0):
    return struct.pack("<BBH", opcode, flags, len(key)) + key


def with_number(opcode, key, number, flags=0):
    return struct.pack("<BBHq", opcode, flags, len(key), number) + key


def with_value(opcode, key, value, flags=0, time=None, expected=None):
    flags |= 0x80 if time is not None else 0
    flags |= 0x40 if expected is not None else 0
    operation = struct.pack("<BBHI", opcode, flags, len(key), len(value))
    if time is not None:
        operation += struct.pack("<Q", time)
    if expected is not None:
        operation += struct.pack("<I", len(expected))
    return operation + key + (expected or b"") + value


def with_keys(opcode, keys):
    return struct.pack("<BBH", opcode, 0, len(keys)) + b"".join(struct.pack("<H", len(key)) + key for key in keys)


def with_pairs(opcode, pairs):
    operation = struct.pack("<BBH", opcode, 0, len(pairs))
    for key, value in pairs:
        operation += struct.pack("<H", len(key)) + key + struct.pack("<I", len(value)) + value
    return operation


def command(*words):
    return struct.pack("<BBH", 0x60, 0, len(words)) + b"".join(struct.pack("<I", len(word)) + word for word in words)


def frame(*operations):
    body = b"".join(operations)
    return struct.pack("<BBI", MAGIC, VERSION, len(body)) + body


# ---- replies --------------------------------------------------------------------------------------


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def take(self, count):
        while len(self.received) < count:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise EOFError(self.received)
            self.received += piece
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def number(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def reply(self):
        tag = self.number("<B")
        if tag >= 0x80:
            return tag - 0x80
        if tag in (0x00, 0x01, 0x02):
            return (OK, NIL, PONG)[tag]
        if tag in (0x03, 0x04):
            return tag == 0x04
        if tag in (0x10, 0x11):
            return self.number("<b" if tag == 0x10 else "<q")
        if tag == 0x12:
            return self.number("<d")
        if tag == 0x20:
            return self.take(self.number("<B"))
        if tag == 0x21:
            return self.take(self.number("<I"))
        if tag in (0x22, 0x23):
            return Text(self.take(self.number("<I")))
        if tag == 0x2F:
            return Error(self.take(self.number("<I")).decode())
        if tag in (0x30, 0x31, 0x33):
            return [self.reply() for _ in range(self.number("<I"))]
        if tag == 0x32:
            return [(self.reply(), self.reply()) for _ in range(self.number("<I"))]
        raise ValueError(f"tag {tag:#04x}")

    def ask(self, *operations):
        """The replies to the operations, sent as one frame."""
        self.socket.sendall(frame(*operations))
        return [self.reply() for _ in operations]

    def expect(self, *pairs):
        """Operations and their replies, in turn."""
        operations, expected = pairs[::2], list(pairs[1::2])
        replies = self.ask(*operations)
        assert replies == expected, f"\n  got      {replies}\n  expected {expected}"

    def expect_end(self):
        rest = self.received + self.socket.recv(1 << 20)
        assert rest == b"", f"the server goes on: {rest!r}"
        self.socket.close()


# ---- good input -----------------------------------------------------------------------------------


def every_operation(port):
    client = Connection(port)
    client.expect(command(b"FLUSHALL"), OK)
    client.expect(plain(0x01), PONG)
    client.expect(with_key(0x10, b"k"), NIL, with_value(0x30, b"k", b"v"), OK, with_key(0x10, b"k"), b"v")
    client.expect(with_key(0x12, b"k"), 1, with_key(0x18, b"k"), 1, with_key(0x16, b"k"), -1, with_key(0x16, b"x"), -2)
    client.expect(with_key(0x13, b"n"), 1, with_key(0x14, b"n"), 0, with_number(0x20, b"n", 300), 300)
    client.expect(with_number(0x21, b"n", 1 << 40), 300 - (1 << 40), with_key(0x10, b"n"), b"-1099511627476")
    client.expect(with_number(0x22, b"k", 100_000), 1)
    (left,) = client.ask(with_key(0x16, b"k"))
    assert 90_000 < left <= 100_000, left
    client.expect(with_key(0x15, b"k"), 1, with_key(0x15, b"k"), 0, with_key(0x16, b"k"), -1)
    client.expect(with_number(0x23, b"k", 4_000_000_000_000), 1, command(b"PEXPIRETIME", b"k"), 4_000_000_000_000)
    # A time that has passed.
    client.expect(with_number(0x22, b"k", -1), 1, with_key(0x10, b"k"), NIL)
    client.expect(with_value(0x31, b"a", b"one"), 3, with_value(0x31, b"a", b" two"), 7, with_key(0x17, b"a"), b"one two")
    client.expect(with_key(0x17, b"a"), NIL, with_key(0x11, b"n"), 1, with_key(0x11, b"n"), 0)
    client.expect(with_pairs(0x50, [(b"a", b"1"), (b"b", b""), (b"", b"3")]), OK)
    client.expect(with_keys(0x40, [b"a", b"x", b"b", b""]), [b"1", NIL, b"", b"3"])
    client.expect(with_pairs(0x51, [(b"c", b"1"), (b"a", b"2")]), 0, with_pairs(0x51, [(b"c", b"1")]), 1)
    client.expect(with_keys(0x42, [b"a", b"b", b"c", b"x"]), 3, with_keys(0x41, [b"a", b"b", b"x"]), 2)
    client.expect(command(b"ECHO", b"hi"), b"hi", command(b"TYPE", b"c"), Text(b"string"))
    (info,) = client.ask(command(b"INFO", b"server"))
    assert isinstance(info, Text) and info.startswith(b"# Server"), info
    (hello,) = client.ask(command(b"HELLO"))
    assert dict(hello)[b"server"] == b"redis", hello
    (times,) = client.ask(command(b"TIME"))
    assert len(times) == 2, times


def flags_of_set(port):
    client = Connection(port)
    client.expect(command(b"FLUSHALL"), OK)

    def set_(value, flags=0, **more):
        return with_value(0x30, b"k", value, flags, **more)

    client.expect(set_(b"a", 0x02), NIL, set_(b"a", 0x01), OK, set_(b"b", 0x01), NIL, set_(b"b", 0x02), OK)
    client.expect(set_(b"c", 0x04), b"b", set_(b"d", 0x04 | 0x01), b"c", with_key(0x10, b"k"), b"c")
    client.expect(set_(b"d", expected=b"x"), NIL, set_(b"d", expected=b"c"), OK, with_key(0x10, b"k"), b"d")
    client.expect(set_(b"e", time=100_000), OK, set_(b"f", 0x08), OK)
    (left,) = client.ask(with_key(0x16, b"k"))
    assert 90_000 < left <= 100_000, left
    client.expect(set_(b"g", 0x10, time=4_000_000_000_000, expected=b"f"), OK)
    client.expect(command(b"PEXPIRETIME", b"k"), 4_000_000_000_000, set_(b"h"), OK, with_key(0x16, b"k"), -1)
    # Contradictions, as in RESP.
    syntax = Error("ERR syntax error")
    client.expect(set_(b"x", 0x01 | 0x02), syntax, set_(b"x", 0x08, time=1), syntax, with_key(0x10, b"k"), b"h")
    client.expect(set_(b"x", time=0), Error("ERR invalid expire time in 'set' command"))
    # EXPIRE with its flags.
    client.expect(with_number(0x22, b"k", 1000, 0x02), 0, with_number(0x22, b"k", 100_000, 0x01), 1)
    client.expect(with_number(0x22, b"k", 1000, 0x04), 0, with_number(0x22, b"k", 200_000, 0x04), 1)
    client.expect(with_number(0x22, b"k", 300_000, 0x08), 0, with_number(0x22, b"k", 100_000, 0x08), 1)


def values_of_every_size(port):
    client = Connection(port)
    for size in [0, 1, 255, 256, 65_535, 65_536, 1_000_000, 20_000_000]:
        value = bytes(range(256)) * (size // 256 + 1)
        value = value[:size]
        client.expect(with_value(0x30, b"size", value), OK, with_key(0x10, b"size"), value, with_key(0x18, b"size"), size)
    longest = b"k" * 65_535
    client.expect(with_value(0x30, longest, b"v"), OK, with_keys(0x40, [longest, b"none"]), [b"v", NIL])
    for number in [0, 127, 128, -1, -128, -129, 2**63 - 1, -(2**63)]:
        client.expect(with_key(0x11, b"n"), 0 if number == 0 else 1, with_number(0x20, b"n", number), number)
    client.expect(with_key(0x11, b"n"), 1)


def frames_are_only_a_fence(port):
    client = Connection(port)
    client.expect(command(b"FLUSHALL"), OK)
    # An empty frame, and many at once.
    client.socket.sendall(frame() + b"".join(frame(with_key(0x13, b"n"), plain(0x01)) for _ in range(1000)))
    for count in range(1, 1001):
        assert client.reply() == count and client.reply() is PONG
    # Carried out as they arrive, though the frame is not complete.
    whole = frame(with_key(0x13, b"n"), with_key(0x13, b"n"))
    client.socket.sendall(whole[:12])
    assert client.reply() == 1001
    client.socket.sendall(whole[12:])
    assert client.reply() == 1002
    # However it is cut.
    conversation = frame(
        with_value(0x30, b"cut", b"value", time=100_000, expected=None), with_key(0x10, b"cut"), with_keys(0x40, [b"cut"])
    )
    for cut in range(len(conversation)):
        client.socket.sendall(conversation[:cut])
        client.socket.sendall(conversation[cut:])
        assert [client.reply() for _ in range(3)] == [OK, b"value", [b"value"]]
    # What was sent before the end is answered.
    client.socket.sendall(frame(with_key(0x13, b"n"))[:6] + with_key(0x13, b"n"))
    client.socket.shutdown(socket.SHUT_WR)
    assert client.reply() == 1003
    client.expect_end()


# ---- bad input ------------------------------------------------------------------------------------


def refused_operations(port):
    client = Connection(port)

    def unknown(opcode, flags):
        text = f"ERR unknown command 'opcode {opcode:#04x} flags {flags:#04x}', with args beginning with: "
        return Error(text)

    # Known shapes: the end is known, the connection goes on.
    client.expect(with_key(0x1F, b"k"), unknown(0x1F, 0), plain(0x0F), unknown(0x0F, 0), plain(0x01), PONG)
    client.expect(with_number(0x2F, b"k", 1), unknown(0x2F, 0), with_value(0x3F, b"k", b"v"), unknown(0x3F, 0))
    client.expect(with_keys(0x4F, [b"k", b"l"]), unknown(0x4F, 0), with_pairs(0x5F, [(b"k", b"v")]), unknown(0x5F, 0))
    client.expect(with_key(0x10, b"k", 0x01), unknown(0x10, 1), with_value(0x30, b"k", b"v", 0x20), unknown(0x30, 0x20))
    client.expect(with_number(0x22, b"k", 1, 0x10), unknown(0x22, 0x10))
    client.expect(command(b"NOSUCH", b"a"), Error("ERR unknown command 'NOSUCH', with args beginning with: 'a' "))
    client.expect(command(b"GET"), Error("ERR wrong number of arguments for 'get' command"))
    client.expect(with_keys(0x40, []), Error("ERR wrong number of arguments for 'mget' command"))
    client.expect(with_value(0x30, b"k", b"v"), OK, with_key(0x13, b"k"), Error("ERR value is not an integer or out of range"))
    client.expect(plain(0x01), PONG)


def frames_that_cannot_be_trusted(port):
    header = struct.Struct("<BBI")
    cases = [
        (b"PING\r\n", "ERR Protocol error: expected a frame, got byte 0x50"),
        (header.pack(MAGIC, 2, 0), "ERR Protocol error: unknown frame version 2"),
        (header.pack(MAGIC, VERSION, 5) + with_key(0x10, b"kk"), "ERR Protocol error: operation passes the end of its frame"),
        (header.pack(MAGIC, VERSION, 1) + plain(0x01), "ERR Protocol error: operation passes the end of its frame"),
        (frame(b"\x70\0"), "ERR Protocol error: unknown shape of opcode 0x70"),
        (frame(struct.pack("<BBHI", 0x30, 0, 1, 2**32 - 1)), None),
        (header.pack(MAGIC, VERSION, 2**32 - 1) + struct.pack("<BBHI", 0x30, 0, 1, 65 << 20), "ERR Protocol error: invalid bulk length"),
    ]
    for bad, text in cases:
        client = Connection(port)
        # What came before is answered; much that follows is not looked at.
        client.socket.sendall(frame(plain(0x01)) + bad + b"\0" * 1_000_000)
        assert client.reply() is PONG
        reply = client.reply()
        assert isinstance(reply, Error) and reply.args[0].startswith("ERR Protocol error"), reply
        assert text is None or reply == Error(text), (reply, text)
        client.expect_end()


def main():
    port = int(sys.argv[1])
    tests = [
        every_operation,
        flags_of_set,
        values_of_every_size,
        frames_are_only_a_fence,
        refused_operations,
        frames_that_cannot_be_trusted,
    ]
    for test in tests:
        try:
            test(port)
        except Exception as error:
            raise SystemExit(f"{test.__name__}: {type(error).__name__}: {error}") from error
    print(f"{len(tests)} passed")


main()
