#!/usr/bin/env python3
"""A provider to break: OpenAI's chat API with made-up responses. GET and PUT /mode show and set how it behaves.

  curl -X PUT localhost:8711/mode -d errors      # ok, errors, slow or throttled
"""
import http.server, json, random, sys, time

NAME, PORT = sys.argv[1], int(sys.argv[2])
MODES = ("ok", "errors", "slow", "throttled")
WORDS = "A sidecar keeps the calls of an application working while a provider fails".split()


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mode = "ok"

    def do_GET(self):
        self.respond(200, f"{Provider.mode}\n", "text/plain")

    def do_PUT(self):
        wanted = self.body().decode().strip()
        if wanted not in MODES:
            self.respond(400, f"found mode `{wanted}`, expected one of {', '.join(MODES)}\n", "text/plain")
            return
        Provider.mode = wanted
        print(f"{NAME}: mode {wanted}", flush=True)
        self.respond(200, f"{wanted}\n", "text/plain")

    def do_POST(self):
        request = json.loads(self.body() or b"{}")
        mode = Provider.mode
        time.sleep(random.lognormvariate(-2.3, 0.4) + (1.5 if mode == "slow" else 0))
        if mode == "errors":
            self.respond(500, json.dumps({"error": {"message": "made-up error", "type": "server_error"}}))
        elif mode == "throttled":
            self.respond(429, json.dumps({"error": {"message": "too many requests", "type": "rate_limit_error"}}),
                         headers={"Retry-After": "5"})
        elif request.get("stream"):
            self.stream(request)
        else:
            message = {"role": "assistant", "content": " ".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.respond(200, json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": request.get("model"),
                                          "choices": [choice], "usage": usage()}))

    def stream(self, request):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in WORDS:
            self.event({"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}, request)
            time.sleep(0.02)
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage()}, request)
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, event, request):
        event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": request.get("model"), **event}
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def respond(self, status, text, content_type="application/json", headers=None):
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def usage():
    return {"prompt_tokens": random.randint(20, 200), "completion_tokens": len(WORDS), "total_tokens": 220}


http.server.ThreadingHTTPServer(("", PORT), Provider).serve_forever()
