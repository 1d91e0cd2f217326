"""Origins of the drill `attack`: each records the messages that it reads, one line `METHOD TARGET LENGTH` each.

A tap between the sidecar and an origin parses the same bytes strictly. A message that the origin reads and the tap does not
is a smuggled one. Origins that do not know the length write the version in its place.
"""
import asyncio, pathlib, re, shutil, socket, subprocess, sys, tempfile, time
from harness import Child, die, end_with_parent, wait_until

NODE = """
const fs = require('fs'), log = process.argv[2]
const server = require('http').createServer((request, response) => {
  let length = 0
  request.on('data', (data) => { length += data.length })
  request.on('end', () => {
    fs.appendFileSync(log, `${request.method} ${request.url} ${length}\\n`, 'latin1')
    response.end('ok')
  })
})
server.on('upgrade', (request, socket) => { socket.end('HTTP/1.1 400 Bad Request\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n') })
server.listen(Number(process.argv[3]), '127.0.0.1')
"""
PYTHON = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def body(self):
        if self.headers.get("transfer-encoding") is None:
            return len(self.rfile.read(int(self.headers.get("content-length", 0))))
        length = 0
        while size := int(self.rfile.readline().split(b";")[0], 16):
            length += len(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return length
    def respond(self):
        length = self.body()
        with open(sys.argv[1], "a", encoding="latin1") as log:
            log.write(f"{self.requestline}\\n")
        self.send_response(200)
        self.send_header("content-length", "0" if self.command == "HEAD" else "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.respond
        raise AttributeError(name)
    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):
            self.close_connection = True
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error crit;
events {{ worker_connections 1024; }}
http {{
  log_format message escape=none '$request';
  access_log {log} message;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout client 20s
  timeout server 20s
  timeout connect 5s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server origin 127.0.0.1:{origin}
"""
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Ambiguous(Exception):
    """Bytes that two parsers could read differently."""


class StrictParser:
    """Reads requests as RFC 9112 writes them, and nothing else."""

    def __init__(self):
        self.data = b""

    def feed(self, data):
        """The messages that are complete now, as (method, target, length)."""
        self.data += data
        messages = []
        while (message := self.next()) is not None:
            messages.append(message)
        return messages

    def next(self):
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        line, *fields = self.data[:end].split(b"\r\n")
        if not (match := re.fullmatch(rb"([!-~]+) ([!-~\x80-\xff]+) HTTP/1\.1", line)):
            raise Ambiguous(f"request line {line!r}")
        headers = {}
        for field in fields:
            name, colon, value = field.partition(b":")
            if not colon or not TOKEN.fullmatch(name) or re.search(rb"[\0-\x08\x0a-\x1f\x7f]", value):
                raise Ambiguous(f"header line {field!r}")
            headers.setdefault(name.lower(), []).append(value.strip(b" \t"))
        if len(headers.get(b"host", [])) != 1:
            raise Ambiguous(f"{len(headers.get(b'host', []))} hosts")
        lengths, codings = headers.get(b"content-length", []), headers.get(b"transfer-encoding", [])
        if lengths and codings:
            raise Ambiguous("both Content-Length and Transfer-Encoding")
        if codings:
            body = self.chunks(end + 4, codings)
        elif lengths:
            if len(lengths) != 1 or not lengths[0].isdigit():
                raise Ambiguous(f"lengths {lengths}")
            after = end + 4 + int(lengths[0])
            body = (int(lengths[0]), after) if len(self.data) >= after else None
        else:
            body = (0, end + 4)
        if body is None:
            return None
        self.data = self.data[body[1]:]
        return match.group(1).decode("latin1"), match.group(2).decode("latin1"), body[0]

    def incomplete(self):
        """The request line of a message whose body did not arrive completely; its origin may record it."""
        return self.data.split(b"\r\n")[0].decode("latin1") if b"\r\n\r\n" in self.data else None

    def chunks(self, at, codings):
        if codings != [b"chunked"]:
            raise Ambiguous(f"codings {codings}")
        length = 0
        while (end := self.data.find(b"\r\n", at)) >= 0:
            line = self.data[at:end]
            if not re.fullmatch(rb"[0-9a-f]+", line):
                raise Ambiguous(f"chunk size {line!r}")
            size, at = int(line, 16), end + 2
            if size == 0:
                if self.data[at:at + 2] == b"\r\n":
                    return length, at + 2
                end = self.data.find(b"\r\n\r\n", at)
                return None if end < 0 else (length, end + 4)
            if len(self.data) < at + size + 2:
                return None
            if self.data[at + size:at + size + 2] != b"\r\n":
                raise Ambiguous("no CRLF behind a chunk")
            length, at = length + size, at + size + 2
        return None


class Tap:
    """Relays connections to an origin, or responds itself, and records what it reads."""

    def __init__(self, folder, name, origin=None):
        self.log, self.faults = folder / f"{name}.tap", folder / f"{name}.faults"
        self.log.touch()
        self.faults.touch()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port, self.origin, self.relays = self.listener.getsockname()[1], origin, set()
        self.child = Child(lambda: asyncio.run(self.serve()))
        self.listener.close()

    async def serve(self):
        with open(self.log, "a", 1, "latin1") as self.out, open(self.faults, "a", 1, "latin1") as self.bad:
            server = await asyncio.start_server(self.connection, sock=self.listener)
            await server.serve_forever()

    async def connection(self, reader, writer):
        parser, far = StrictParser(), None
        try:
            if self.origin:
                far_reader, far = await asyncio.open_connection("127.0.0.1", self.origin)
                self.relays.add(asyncio.ensure_future(self.relay(far_reader, writer)))
            while data := await reader.read(65536):
                try:
                    for method, target, length in parser.feed(data):
                        self.out.write(f"{method} {target} {length}\n")
                        if not far:
                            writer.write(OK[:-2] if method == "HEAD" else OK)
                except Ambiguous as fault:
                    self.bad.write(f"{fault}\n")
                    break
                if far:
                    far.write(data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            if head := parser.incomplete():
                self.out.write(f"{head}\n")
            writer.close()
            if far:
                far.close()

    @staticmethod
    async def relay(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()


class Program:
    """A server program behind a tap. `log` has the messages that it read."""

    def __init__(self, folder, name):
        self.name, self.folder = name, pathlib.Path(tempfile.mkdtemp(dir=folder))
        self.folder.chmod(0o755)
        self.log, self.process, self.inner = self.folder / "log", None, None
        self.log.touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = getattr(self, name)(port)
        if command:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=end_with_parent)
            wait_until(lambda: is_open(port), f"the origin {name}")
        self.tap = Tap(folder, name, port if command else None)

    def recorder(self, _):
        return None

    def nginx(self, port):
        config = self.folder / "nginx.conf"
        config.write_text(NGINX.format(folder=self.folder, log=self.log, port=port))
        return ["nginx", "-p", self.folder, "-e", self.folder / "start", "-c", config]

    def haproxy(self, port):
        self.inner = Tap(self.folder, "inner")
        config = self.folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=port, origin=self.inner.port))
        return ["haproxy", "-f", config]

    def node(self, port):
        script = self.folder / "origin.js"
        script.write_text(NODE)
        return ["node", "--max-http-header-size=200000", script, self.log, str(port)]

    def python(self, port):
        return [sys.executable, "-c", PYTHON, self.log, str(port)]

    def messages(self):
        """The messages that the program read, and those that the tap read."""
        log = self.inner.log if self.inner else self.log
        return lines(log) if self.process else lines(self.tap.log), lines(self.tap.log)

    def faults(self):
        return lines(self.tap.faults)

    def stop(self):
        for child in (self.tap.child, self.inner and self.inner.child):
            if child:
                child.stop()
        if self.process:
            self.process.kill()
            self.process.wait()


def lines(path):
    return path.read_text(encoding="latin1").splitlines()


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def available():
    """The names of the origins that are installed here."""
    programs = [name for name in ("nginx", "haproxy", "node") if shutil.which(name)]
    return ["recorder", *programs, "python"]
