"""A steady load for drills that restart the sidecar: `origin PORT`, or `load PORT RATE` until standard input is closed.

Every second request opens a connection of its own; the others share connections that are kept alive. A request counts as failed
when it was sent, or could not be sent because the connection was refused, and has no complete 200 within 60 seconds. `load` then
prints one line of JSON. Both run in the network namespace in which they are started.
"""
import asyncio, collections, json, sys, time

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: sidecar\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n" b'{"model": "test"}'
BODY = b'{"choices": []}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
KEPT_ALIVE = 40


class OriginProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
            if len(self.data) < end + 4 + length:
                return
            self.data = self.data[end + 4 + length:]
            self.transport.write(RESPONSE)


class Load:
    def __init__(self, port, rate):
        self.port, self.rate, self.idle = port, rate, collections.deque()
        self.sent, self.slowest, self.failures = 0, 0.0, collections.Counter()

    async def connection(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def request(self, keep):
        begun = time.monotonic()
        try:
            async with asyncio.timeout(60):
                await self.exchange(keep)
        except Exception as error:
            self.failures[f"{type(error).__name__}: {error}"[:120]] += 1
        self.slowest = max(self.slowest, time.monotonic() - begun)

    async def exchange(self, keep):
        reader = writer = None
        while keep and self.idle and reader is None:
            reader, writer = self.idle.popleft()
            if reader.at_eof() or writer.is_closing():
                writer.close()
                reader = None
        if reader is None:
            reader, writer = await self.connection()
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        if not head.startswith(b"http/1.1 200"):
            self.failures[head.split(b"\r\n")[0].decode()] += 1
        if keep and b"connection: close" not in head and len(self.idle) < KEPT_ALIVE:
            self.idle.append((reader, writer))
        else:
            writer.close()

    async def run(self):
        ended, tasks, begun = asyncio.Event(), set(), time.monotonic()
        asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
        while not ended.is_set():
            due = int((time.monotonic() - begun) * self.rate) - self.sent
            for _ in range(min(due, 200)):
                self.sent += 1
                task = asyncio.create_task(self.request(self.sent % 2 == 0))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.005)
        seconds = time.monotonic() - begun
        await asyncio.gather(*tasks)
        print(json.dumps({"sent": self.sent, "seconds": round(seconds, 1), "slowest": round(self.slowest, 2),
                          "failed": sum(self.failures.values()), "reasons": dict(self.failures)}), flush=True)


async def serve(port):
    server = await asyncio.get_running_loop().create_server(OriginProtocol, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    role, port = sys.argv[1], int(sys.argv[2])
    asyncio.run(serve(port) if role == "origin" else Load(port, int(sys.argv[3])).run())
