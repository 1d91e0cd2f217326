"""A provider that speaks the vendors' APIs and fails on demand, and a client that sees how a response ends."""
import collections, contextlib, json, re, socket, struct, threading, time

from vendors import WORDS, api_of

JSON = "content-type: application/json\r\n"
EVENTS = "content-type: text/event-stream\r\n"
Request = collections.namedtuple("Request", "head path body streamed")
Seen = collections.namedtuple("Seen", "status headers body end seconds")


class Gone(Exception):
    """The peer closed the connection."""


class Messages:
    """Reads HTTP messages from a connection."""

    def __init__(self, connection):
        self.connection, self.data = connection, b""

    def more(self):
        piece = self.connection.recv(1 << 18)
        if not piece:
            raise Gone
        self.data += piece

    def until(self, mark):
        while mark not in self.data:
            self.more()
        found, self.data = self.data.split(mark, 1)
        return found

    def exactly(self, size):
        pieces, left = [], size
        while left > len(self.data):
            pieces.append(self.data)
            left, self.data = left - len(self.data), b""
            self.more()
        pieces.append(self.data[:left])
        self.data = self.data[left:]
        return b"".join(pieces)

    def chunks(self):
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            yield self.exactly(size)
            self.exactly(2)
        while self.until(b"\r\n"):
            pass

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return lines[0], {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}

    def request(self):
        line, headers = self.head()
        is_chunked = "chunked" in headers.get("transfer-encoding", "")
        body = b"".join(self.chunks()) if is_chunked else self.exactly(int(headers.get("content-length", 0)))
        path = line.split(" ")[1]
        streamed = "stream" in path or re.search(rb'"stream": ?true', body[:1000] + body[-1000:]) is not None
        return Request(headers, path, body, streamed)


class Provider:
    """Responds as the function `fault` says, which takes a `Reply` and makes it; each connection has a thread."""

    def __init__(self, fault, port=0):
        self.fault, self.requests, self.connections, self.lock = fault, [], set(), threading.Lock()
        self.port, self.listener = port, None
        self.listen()

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def refuse(self):
        """Refuses connections until the next `listen`, and closes those that are open."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with self.lock:
            self.connections.add(connection)
        messages = Messages(connection)
        with contextlib.suppress(OSError, Gone), connection:
            while True:
                request = messages.request()
                with self.lock:
                    self.requests.append(request)
                self.fault(Reply(connection, request, len(self.requests)))
        with self.lock:
            self.connections.discard(connection)

    @property
    def count(self):
        return len(self.requests)


class Reply:
    """One response in the API of its request. `number` counts the provider's requests."""

    def __init__(self, connection, request, number):
        self.connection, self.request, self.number = connection, request, number
        self.api, self.streamed = api_of(request.path), request.streamed

    def send(self, data):
        self.connection.sendall(data)

    def document(self, status, body, headers=JSON, close=False):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(f"HTTP/1.1 {status} Status\r\n{headers}content-length: {len(data)}\r\n\r\n".encode() + data)

    def error(self, status, headers="", **fields):
        self.document(status, self.api.error(status, **fields), JSON + headers)

    def good(self):
        if self.streamed:
            self.events(self.api.opening() + [self.api.content(word) for word in WORDS] + self.api.closing())
        else:
            self.document(200, self.api.whole())

    def head(self):
        kind = EVENTS if self.streamed else JSON
        self.send(f"HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n\r\n".encode())

    def part(self, data):
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def events(self, events, end=None):
        """A stream of these events; `end` makes it break."""
        self.head()
        for event in events:
            self.part(event)
        end(self) if end else self.send(b"0\r\n\r\n")

    def start(self, events, end):
        """The opening of a stream, or the first half of a document, then `end`."""
        if self.streamed:
            return self.events(events, end)
        data = json.dumps(self.api.whole()).encode()
        self.send(f"HTTP/1.1 200 OK\r\n{JSON}content-length: {len(data)}\r\n\r\n".encode() + data[:len(data) // 2])
        end(self)

    def middle(self):
        return self.api.opening() + [self.api.content(word) for word in WORDS[:3]]

    def hang(self):
        """Silence until the client disconnects."""
        while self.connection.recv(65536):
            pass
        raise Gone

    def cut(self):
        raise Gone

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone


def call(port, path, body, headers=(), patience=150):
    """Sends one request on a new connection; `end` says whether the response was complete."""
    began, messages = time.monotonic(), None
    pieces, line, fields = [], "HTTP/1.1 0", {}
    head = [f"POST {path} HTTP/1.1", "host: drill", f"content-length: {len(body)}", *headers]
    if not any(header.startswith("content-type") for header in headers):
        head.append("content-type: application/json")
    try:
        with socket.create_connection(("127.0.0.1", port), patience) as connection:
            connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            messages = Messages(connection)
            line, fields = messages.head()
            if "chunked" in fields.get("transfer-encoding", ""):
                pieces.extend(messages.chunks())
            else:
                pieces.append(messages.exactly(int(fields.get("content-length", 0))))
        end = "complete"
    except (Gone, ConnectionError):
        end = "broken"
    except TimeoutError:
        end = f"nothing for {patience} s"
    return Seen(int(line.split(" ")[1]), fields, b"".join(pieces), end, time.monotonic() - began)
