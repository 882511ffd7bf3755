"""Passing descriptors in Python. bench/README.md tells what w1 to w4 are, and what is printed.
blocking   socket.send_fds and socket.recv_fds
asyncio    the same on non-blocking sockets, with add_reader and add_writer
anyio      UNIXSocketStream.send_fds and receive_fds
usage: python3 passing.py blocking|asyncio|anyio WORKLOAD N
"""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time

IS_RECEIVER = sys.argv[1] == "receive"
WAY, WORKLOAD, N, *REST = sys.argv[2 if IS_RECEIVER else 1 :]
N = int(N)
WARM_UP = N // 10 + 1000
COUNT = int(WORKLOAD[3:]) if WORKLOAD.startswith("w3-") else 1
BYTE = b"x"
ANSWER = b"a" * 64


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))


def open_descriptors():
    return len(os.listdir("/proc/self/fd")) - 1  # the folder itself


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Blocking:
    """Its coroutines never suspend."""

    def __init__(self, sock):
        self.sock = sock

    async def send(self, fds):
        socket.send_fds(self.sock, [BYTE], fds)

    async def receive(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 1, COUNT)
        return data, fds

    async def accept(self, listener):
        return listener.accept()[0]


class Asyncio:
    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, fds):
        while True:
            try:
                socket.send_fds(self.sock, [BYTE], fds)
                return
            except BlockingIOError:
                await self.ready(self.loop.add_writer, self.loop.remove_writer)

    async def receive(self):
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 1, COUNT)
                return data, fds
            except BlockingIOError:
                await self.ready(self.loop.add_reader, self.loop.remove_reader)

    async def ready(self, add, remove):
        future = self.loop.create_future()
        add(self.sock, future.set_result, None)
        try:
            await future
        finally:
            remove(self.sock)

    async def accept(self, listener):
        return (await self.loop.sock_accept(listener))[0]


class Anyio:
    def __init__(self, sock, stream):
        self.sock = sock
        self.stream = stream
        self.loop = asyncio.get_running_loop()

    async def send(self, fds):
        await (self.stream.send_fds(BYTE, fds) if fds else self.stream.send(BYTE))

    async def receive(self):
        import anyio

        try:
            if IS_RECEIVER or WORKLOAD == "w1":
                return await self.stream.receive_fds(1, COUNT)
            return await self.stream.receive(1), []
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return b"", []

    accept = Asyncio.accept


async def wrap(sock):
    if WAY == "blocking":
        return Blocking(sock)
    if WAY == "asyncio":
        return Asyncio(sock)
    import anyio.abc

    sock.setblocking(False)
    if hasattr(anyio.abc.UNIXSocketStream, "from_socket"):
        return Anyio(sock, await anyio.abc.UNIXSocketStream.from_socket(sock))
    from anyio._backends._asyncio import UNIXSocketStream

    return Anyio(sock, UNIXSocketStream(sock))


async def receive():
    end = await wrap(socket.socket(fileno=int(REST[0])))
    listener = socket.create_server(("127.0.0.1", 0))
    messages = received = first_rss = cpu_begun = 0
    await end.send([])  # ready
    while True:
        data, fds = await end.receive()
        if not data:
            break
        messages += 1
        received += len(fds)
        if WORKLOAD == "w4":
            os.write(fds[0], ANSWER)
        close_all(fds)
        if messages == 1:
            first_rss = status("VmRSS")
        if messages == WARM_UP:
            cpu_begun = cpu()
        if WORKLOAD == "w1":
            await end.send([listener.fileno()])
        elif messages in (WARM_UP, WARM_UP + N):
            await end.send([])
    there = dict(cpu=cpu() - cpu_begun, received=received, firstRss=first_rss, peakRss=status("VmHWM"), open=open_descriptors())
    print(json.dumps(there), flush=True)


async def hand_out_connections(end):
    """Until it is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=511)
    if WAY != "blocking":
        listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection = await end.accept(listener)
        await end.send([connection.fileno()])
        connection.close()


async def round_trips(end, fds):
    latencies = []
    for _ in range(WARM_UP):
        await end.send(fds)
        close_all((await end.receive())[1])
    cpu_begun = cpu()
    begun = now = time.perf_counter()
    for _ in range(N):
        before = now
        await end.send(fds)
        close_all((await end.receive())[1])
        now = time.perf_counter()
        latencies.append((now - before) * 1e6)
    cpu_here = cpu() - cpu_begun
    latencies.sort()
    return dict(seconds=now - begun, cpu=cpu_here, p50=latencies[N // 2], p99=latencies[N * 99 // 100])


async def stream(end, fds):
    for _ in range(WARM_UP):
        await end.send(fds)
    await end.receive()
    cpu_begun = cpu()
    begun = time.perf_counter()
    for _ in range(N):
        await end.send(fds)
    await end.receive()
    return dict(seconds=time.perf_counter() - begun, cpu=cpu() - cpu_begun)


async def send():
    ours, theirs = socket.socketpair()
    receiver = subprocess.Popen(
        [sys.executable, __file__, "receive", WAY, WORKLOAD, str(N), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
    )
    theirs.close()
    end = await wrap(ours)
    await end.receive()  # ready
    if WORKLOAD == "w4":
        await hand_out_connections(end)
    listener = socket.create_server(("127.0.0.1", 0))
    fds = [listener.fileno()] * COUNT
    here = await (round_trips if WORKLOAD == "w1" else stream)(end, fds)
    ours.shutdown(socket.SHUT_WR)
    there = json.loads(receiver.communicate()[0])
    print(json.dumps({**there, **here, "cpu": here["cpu"] + there["cpu"], "sent": (WARM_UP + N) * COUNT}))


def run(coroutine):
    if WAY != "blocking":
        asyncio.run(coroutine)
        return
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("It has suspended")


run(receive() if IS_RECEIVER else send())
