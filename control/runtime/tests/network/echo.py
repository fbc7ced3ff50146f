"""echo.py serve ADDRESS,... PORT/PROTOCOL,...   echoes on all of them, and says `ready`
echo.py ask PROTOCOL ADDRESS PORT [FROM]      prints what came back, or `refused`, or `nothing`
echo.py flood ADDRESS PORT COUNT              opens many conversations at once
echo.py sink ADDRESS PORT                     takes all it is sent, one connection after another, and says `ready`
echo.py pour ADDRESS PORT SECONDS             sends all that gets there, and prints how many bytes and in how many seconds"""

import selectors
import socket
import sys
import time

WAIT = 1.0


def serve(addresses, ports):
    ready = selectors.DefaultSelector()
    for address in addresses.split(","):
        for port, protocol in (each.split("/") for each in ports.split(",")):
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            listener = socket.socket(socket.AF_INET, kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, int(port)))
            if protocol == "tcp":
                listener.listen()
            ready.register(listener, selectors.EVENT_READ, protocol)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.data == "tcp":
                connection, peer = key.fileobj.accept()
                connection.sendall(peer[0].encode())
                connection.close()
            else:
                _, peer = key.fileobj.recvfrom(100)
                key.fileobj.sendto(peer[0].encode(), peer)


def ask(protocol, address, port, source=None):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(WAIT)
        try:
            if source:
                client.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT: an address that is not ours
                client.bind((source, 0))
            client.connect((address, int(port)))
            if protocol == "udp":
                client.send(b"?")
            return "from " + client.recv(100).decode()
        except TimeoutError:
            return "nothing"
        except OSError as error:
            return "refused" if error.errno in (111, 113, 13) else str(error)


def flood(address, port, count):
    """As many conversations, each from a port of its own."""
    held = []
    for _ in range(int(count)):
        held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        try:
            held[-1].sendto(b"?", (address, int(port)))
        except OSError:
            pass
    return "sent"


def sink(address, port):
    listener = socket.create_server((address, int(port)))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        while connection.recv(65536):
            pass
        connection.close()


def pour(address, port, seconds):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # what waits here hasn't been sent
        client.connect((address, int(port)))
        sent, began = 0, time.monotonic()
        while time.monotonic() < began + float(seconds):
            sent += client.send(bytes(65536))
        return f"{sent} {time.monotonic() - began}"


if sys.argv[1] == "sink":
    sink(*sys.argv[2:])
elif sys.argv[1] == "pour":
    print(pour(*sys.argv[2:]))
elif sys.argv[1] == "serve":
    serve(*sys.argv[2:])
elif sys.argv[1] == "flood":
    print(flood(*sys.argv[2:]))
else:
    print(ask(*sys.argv[2:]))
