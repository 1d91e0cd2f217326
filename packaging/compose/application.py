#!/usr/bin/env python3
"""The application: sends chats through the sidecar, and prints every five seconds how they ended."""
import collections, json, os, random, threading, time, urllib.error, urllib.request

URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8700/v1") + "/chat/completions"
THREADS, PAUSE = 6, 0.4
QUESTIONS = [f"question {number}" for number in range(200)]
ended = collections.deque()


def chat():
    """One request: how it ended, and its seconds."""
    body = {"model": random.choice(["demo", "demo-mini"]), "stream": random.random() < 0.3,
            "messages": [{"role": "user", "content": random.choice(QUESTIONS)}]}
    headers = {"Content-Type": "application/json"}
    if random.random() < 0.05:
        headers["Prefer"] = "respond-async"
    began = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(URL, json.dumps(body).encode(), headers), timeout=30) as response:
            response.read()
            result = "job accepted" if response.status == 202 else "ok"
    except urllib.error.HTTPError as error:
        result = f"status {error.code}"
    except OSError as error:
        result = type(error).__name__
    return result, time.monotonic() - began


def send():
    while True:
        ended.append(chat())
        time.sleep(random.expovariate(1 / PAUSE))


for _ in range(THREADS):
    threading.Thread(target=send, daemon=True).start()
while True:
    time.sleep(5)
    seen = [ended.popleft() for _ in range(len(ended))]
    results = collections.Counter(result for result, _ in seen)
    times = sorted(seconds for _, seconds in seen)
    p95 = f"; p95 {times[int(len(times) * 0.95)] * 1000:.0f} ms" if times else ""
    print(", ".join(f"{count} {result}" for result, count in results.most_common()) + p95, flush=True)
