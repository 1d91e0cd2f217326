"""Shared by the drills in Python: the built binary before scripted origins, observed from outside.

Origins and probes are processes of their own (fork), so that a busy load generator does not distort the measurement. The
kernel chooses every port: sockets are bound before the fork, and the sidecar logs the address it listens on.
"""
import argparse, asyncio, collections, ctypes, heapq, json, os, pathlib, re, resource, selectors, signal, socket, subprocess, sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHUNK = 256 * 1024
PATIENCE = 20
GOOD = json.dumps({"id": "1", "object": "chat.completion", "choices": [{"message": {"content": "hello"}}]}).encode()


def die(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


def end_with_parent():
    """Kills this process when its parent ends (PR_SET_PDEATHSIG), so a killed drill leaves nothing behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The text as it is, and the default of each option that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parser_of(text):
    """A parser whose --help is the text of the drill."""
    return argparse.ArgumentParser(prog=f"tests/drill {pathlib.Path(sys.argv[0]).name}", description=text, formatter_class=Help)


def options(parser):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser.add_argument("--profile", default="release", help="cargo profile to build Outrigger with")
    parser.add_argument("--binary", help="use this file instead of building")
    parser.add_argument("--workers", type=int, default=2, help="worker threads of each sidecar")


def binary(o):
    if o.binary:
        return pathlib.Path(o.binary).resolve()
    print(f"building Outrigger (--profile {o.profile})", flush=True)
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--profile", o.profile], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (target / {"dev": "debug"}.get(o.profile, o.profile) / "outrigger").resolve()


def need_descriptors(count):
    """Raises the descriptor limit of this process and its children to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count:
        die(f"needs {count} descriptors per process, but `ulimit -Hn` is {hard}")


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            die(f"timed out waiting for {what}")
        time.sleep(0.01)


class Bars:
    """Prints each result and remembers whether one misses its bar."""
    missed = False

    def check(self, name, value, passed):
        self.missed |= not passed
        print(f"  {'ok  ' if passed else 'MISS'} {name}: {value}", flush=True)


class Child:
    """Runs a function in a child process that ends with this one."""

    def __init__(self, work):
        self.pid = os.fork()
        if self.pid == 0:
            end_with_parent()
            try:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
                work()
            except KeyboardInterrupt:
                pass
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def stop(self, how=signal.SIGTERM):
        if self.pid:
            os.kill(self.pid, how)
            self.pid = os.waitpid(self.pid, 0)[0] and None


class Sidecar:
    """The running binary with a policy; its log is a file."""

    def __init__(self, program, policy, workers=2, data="none", more=()):
        self.folder = tempfile.TemporaryDirectory(prefix="drill-")
        folder = pathlib.Path(self.folder.name)
        (folder / "policies").mkdir()
        (folder / "policies" / "policy.yaml").write_text(policy)
        self.log = folder / "log"
        command = [program, "run", "--policies", folder / "policies", "--workers", str(workers)]
        command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *more]
        env = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIGGER_")}
        env["OUTRIGGER_DATA"] = data
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            preexec_fn=end_with_parent)
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or "listener=" in self.text(), "the sidecar's address")
        if self.process.poll() is not None:
            die(f"the sidecar exited with {self.process.returncode}:\n{self.text()}")
        self.port, self.admin = (int(re.search(rf"{side}=http://127\.0\.0\.1:(\d+)", self.text()).group(1))
                                 for side in ("listener", "admin"))

    def text(self):
        return self.log.read_text(errors="replace")

    def memory(self, field="VmRSS"):
        """Resident memory in MiB; VmHWM is its peak."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status).group(1)) / 1024

    def signal(self, which=signal.SIGTERM):
        self.process.send_signal(which)

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


class Origin:
    """A provider that treats every request alike: `chat`, `slow`, `sink`, `source` or `silent`."""

    def __init__(self, behaviour, delay=0.2):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.behaviour, self.delay = behaviour, delay
        self.child = Child(self.run)
        self.listener.close()

    def run(self):
        self.selector, self.buffers, self.pending, self.held = selectors.DefaultSelector(), {}, [], []
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        if self.behaviour in ("sink", "source"):
            return self.serve_transfers()
        while True:
            remaining = max(0, self.pending[0][0] - time.monotonic()) if self.pending else None
            for key, _ in self.selector.select(remaining):
                self.accept() if key.fileobj is self.listener else self.read(key.fileobj)
            while self.pending and self.pending[0][0] <= time.monotonic():
                self.respond(heapq.heappop(self.pending)[2])

    def accept(self):
        try:
            while True:
                connection = self.listener.accept()[0]
                if self.behaviour == "silent":
                    self.held.append(connection)  # never read from
                    continue
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.buffers[connection] = b""
                self.selector.register(connection, selectors.EVENT_READ)
        except BlockingIOError:
            pass

    def read(self, connection):
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(connection)
            del self.buffers[connection]
            return connection.close()
        data = self.buffers[connection] + data
        while (size := request_size(data)) and len(data) >= size:
            data = data[size:]
            if self.behaviour == "slow":
                heapq.heappush(self.pending, (time.monotonic() + self.delay, id(connection), connection))
            else:
                self.respond(connection)
        self.buffers[connection] = data

    def respond(self, connection):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(GOOD)
        try:
            connection.send(head + GOOD)
        except OSError:
            pass

    def serve_transfers(self):
        """Handles long transfers one after another."""
        scratch, zeros = bytearray(1 << 20), memoryview(bytes(1 << 20))
        self.listener.setblocking(True)
        while True:
            connection = self.listener.accept()[0]
            try:
                self.transfer(connection, scratch, zeros)
            except OSError:
                pass
            connection.close()

    def transfer(self, connection, scratch, zeros):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        if self.behaviour == "source":
            remaining = int(re.search(rb"/(\d+) ", head).group(1))
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % remaining)
            while remaining:
                remaining -= connection.send(zeros[:min(remaining, len(zeros))])
            return
        remaining = request_size(head + b"\r\n\r\n") - len(head) - 4 - len(body)
        while remaining > 0:
            received = connection.recv_into(scratch)
            if not received:
                return
            remaining -= received
        self.respond(connection)

    def stop(self):
        self.child.stop()


def request_size(data):
    """Length of the first message in `data`; None while its head is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[:end + 2])
    return end + 4 + (int(length.group(1)) if length else 0)


class Response:
    """A response while it arrives."""

    def __init__(self):
        self.data, self.size = b"", None

    def feed(self, data):
        """Adds data; true once the response is complete."""
        self.data += data
        if self.size is None:
            self.size = request_size(self.data)
        return self.size is not None and len(self.data) >= self.size

    @property
    def status(self):
        match = re.match(rb"HTTP/1\.1 (\d{3})", self.data)
        return int(match.group(1)) if match else None

    def has(self, field):
        return field in self.data[:self.data.find(b"\r\n\r\n") + 2].lower()

    def is_problem(self):
        """Is it a problem+json response of the sidecar?"""
        return self.has(b"content-type: application/problem+json") and b"urn:outrigger:problem:" in self.data


def exchange(port, request, seconds):
    """Sends one request on a new connection and returns the response."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.settimeout(seconds)
        connection.sendall(request)
        response = Response()
        while not response.feed(piece := connection.recv(65536)):
            if not piece:
                raise OSError("the connection was closed before the response was complete")
        return response


def post(path, body=b"{}"):
    head = "POST %s HTTP/1.1\r\nhost: drill\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return (head % (path, len(body))).encode() + body


def admin(sidecar, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{sidecar.admin}{path}", method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return response.read().decode()


def job_states(sidecar):
    """The number of jobs in each state."""
    return json.loads(admin(sidecar, "/api/queue"))["queues"][0]["jobs"]["states"]


class JobClient:
    """One connection that submits jobs and fetches results."""
    BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": "x" * 900}]}).encode()

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def send(self, method, path, body=b"", headers=""):
        """The status and the head of the response."""
        head = f"{method} {path} HTTP/1.1\r\nhost: drill\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        self.writer.write(head.encode() + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"\ncontent-length: (\d+)", head)
        await self.reader.readexactly(int(length.group(1)) if length else 0)
        return int(head[9:12]), head

    async def submit(self):
        """Submits a job and returns its id."""
        status, head = await self.send("POST", "/v1/chat", self.BODY, "prefer: respond-async\r\n")
        if status != 202:
            die(f"a job was rejected with {head.splitlines()[0]}")
        return re.search(r"/\.outrigger/jobs/([0-9a-f]{32})", head).group(1)

    async def status(self, job):
        return (await self.send("GET", f"/.outrigger/jobs/{job}"))[0]


class Probe:
    """Sends an ordinary request every 100 ms, each on a new connection, in a child process."""

    def __init__(self, port, path="/probe", every=0.1, patience=5):
        self.reader, writer = os.pipe()
        self.child = Child(lambda: self.run(port, path, every, patience, writer))
        os.close(writer)

    @staticmethod
    def run(port, path, every, patience, writer):
        stop, times, failures = [], [], collections.Counter()
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        next_at = time.monotonic()
        while not stop:
            start = time.monotonic()
            try:
                status = exchange(port, post(path), patience).status
            except OSError as error:
                status = type(error).__name__
            times.append(time.monotonic() - start)
            if status != 200:
                failures[str(status)] += 1
            next_at = max(next_at + every, time.monotonic())
            while not stop and time.monotonic() < next_at:
                time.sleep(max(0, min(0.02, next_at - time.monotonic())))
        os.write(writer, json.dumps([sorted(times), failures]).encode())

    def result(self):
        """Sorted times in seconds, and the number of failures by status or error."""
        os.kill(self.child.pid, signal.SIGTERM)
        parts = []
        while piece := os.read(self.reader, 65536):
            parts.append(piece)
        os.waitpid(self.child.pid, 0)
        os.close(self.reader)
        return json.loads(b"".join(parts))


def connect(port):
    """A non-blocking connection that is already established."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.setblocking(False)
    return connection
