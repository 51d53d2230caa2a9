"""kvbus without a NATS library: the NATS protocol over a TCP socket.

It prints what goes over the wire, with "> " before what it sends. It expects
an empty store, and a server that asks for no password and no TLS.
"""

import os
import socket
from urllib.parse import urlsplit

url = urlsplit(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
sock = socket.create_connection((url.hostname, url.port or 4222), timeout=10)
wire = sock.makefile("rwb")

INBOX = "_INBOX.me"  # for the replies; with others on the server, take a random one
REPLIES, EVENTS = "1", "2"  # our numbers for the two subscriptions
waiting = {REPLIES: [], EVENTS: []}


def send(text):
    for line in text.split("\r\n"):
        print(f"> {line}".rstrip())
    wire.write(f"{text}\r\n".encode())
    wire.flush()


def request(subject, body="", **fields):
    """Send a request. KV_TTL="1s" is the header KV-TTL: 1s."""
    head = "NATS/1.0\r\n"
    for name, value in fields.items():
        head += f"{name.replace('_', '-')}: {value}\r\n"
    head += "\r\n"
    # The two sizes are in bytes: of the headers, and of all.
    size = len(head.encode())
    send(f"HPUB {subject} {INBOX} {size} {size + len(body.encode())}\r\n{head}{body}")


def receive(subscription):
    """Return headers and body of the next message of a subscription."""
    while not waiting[subscription]:
        line = wire.readline().decode().rstrip()
        verb, *words = line.split(" ")
        if verb == "PING":
            send("PONG")
        elif verb in ("MSG", "HMSG"):
            # subject, subscription, a reply subject if there is one, sizes
            data = wire.read(int(words[-1]) + 2)[:-2]
            size = int(words[-2]) if verb == "HMSG" else 0
            waiting[words[1]].append((line, data[:size].decode(), data[size:].decode()))
        elif verb not in ("PONG", "+OK", "INFO"):
            raise ConnectionError(line or "the server closed the connection")
    line, head, body = waiting[subscription].pop(0)
    print(line + "\n" + (head + body).replace("\r\n", "\n").rstrip())
    fields = [field.partition(":") for field in head.split("\r\n")[1:]]
    return {name: value.strip() for name, _, value in fields if name}, body


def ask(subject, body="", **fields):
    request(subject, body, **fields)
    return receive(REPLIES)


print(wire.readline().decode().rstrip())
send('CONNECT {"verbose":false,"headers":true,"no_responders":true}')
send(f"SUB {INBOX} {REPLIES}")
send(f"SUB kv.events.> {EVENTS}")

ask("kv.set.color", "blue")
receive(EVENTS)
ask("kv.get.color")

ask("kv.cas.color", "green", KV_Expected="blue")
ask("kv.cas.color", "red", KV_Expected="blue")

# An increment that is sent again takes effect once.
ask("kv.incr.orders", "5", KV_Request_Id="7f3a")
ask("kv.incr.orders", "5", KV_Request_Id="7f3a")

# A key with a life of a second. There is an event when it is over.
ask("kv.set.session", "abc", KV_TTL="1s")
while receive(EVENTS)[0]["KV-Operation"] != "EXPIRE":
    pass
ask("kv.get.session")

# A scan is answered with an entry in each message, up to KV-End.
request("kv.scan")
while True:
    reply, _ = receive(REPLIES)
    if "KV-End" in reply or "KV-Error" in reply:
        break

# Nobody serves this: the answer is the server's, with a status and no more.
ask("kv.nothing")
