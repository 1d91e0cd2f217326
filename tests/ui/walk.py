"""Walks every page of the dashboard in a browser, beside a sidecar whose providers fail on demand.

    python tests/ui/walk.py target/debug/outrigger --axe target/axe

It needs tests/ui/requirements.txt, a Chromium, and axe-core 4.14.1 from npm in the directory of --axe. With --ui, the
files come from another server; {admin} in its URL is the port of the sidecar's admin listener, which it must serve
under ../api/.
"""
import argparse, json, os, pathlib, re, shutil, subprocess, sys, tempfile, threading, time, traceback
import urllib.request

from playwright.sync_api import TimeoutError, expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "drills"))
from faulty import Provider, call
from harness import end_with_parent, wait_until

PAGES = ["overview", "requests", "breakers", "queue", "retries", "balancing", "degradation", "benchmarks", "caches",
         "fleet", "policies", "events"]
PATIENCE_MS = 8000
CHAT = "/v1/chat/completions"
TOKEN = "a-token-for-the-dashboard-walk"
MARKUP = "<img src=x onerror=\"document.title='injected'\"><script>document.title='injected'</script>"
HOSTILE = [MARKUP, "\u202egnp.exe\u202c", "x" * 10_000, "{{constructor.constructor('x')()}}", "\u05d0\u05d1\u05d2 name"]
CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update"]

POLICY = """version: 1
server: {{ access_log: {{ to: none, format: json }}, recent_requests: 1000 }}
providers:
  sound: {{ url: "{sound}", auth: none, capacity: {{ concurrency: 8 }} }}
  broken: {{ url: "{broken}", auth: none, breaker: quick }}
  modelled: {{ url: "{sound}", auth: none, breaker: by_model }}
  failing: {{ url: "{broken}", auth: none, breaker: none }}
breakers:
  quick: {{ failure_threshold: 3, recovery_timeout: 20m, max_recovery_timeout: 20m }}
  by_model: {{ scope: model }}
queues:
  default: {{ durable: {{ max_deliveries: 1 }} }}
routes:
  - {{ name: jobs, match: {{ path: /jobs/** }}, providers: [failing], retry: none, idempotent: always, queue: default }}
  - {{ name: models, match: {{ path: /models/** }}, providers: [modelled], retry: none }}
  - {{ name: chat, match: {{ path: /v1/chat/** }}, providers: [broken], fallback: [sound], idempotent: always }}
"""


class Sidecar:
    """The binary with a policy and a store; `start` after `stop` uses the same ports and data."""

    def __init__(self, program, policy, token=None):
        self.folder = tempfile.TemporaryDirectory(prefix="walk-")
        self.path = pathlib.Path(self.folder.name)
        self.policy, self.log = self.path / "policies" / "policy.yaml", self.path / "log"
        self.policy.parent.mkdir()
        self.policy.write_text(policy)
        self.program, self.token, self.port, self.admin = program, token, 0, 0
        self.start()

    def start(self):
        command = [self.program, "run", "--policies", self.policy.parent, "--workers", "1", "--data", self.path / "data",
                   "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        command += ["--admin-token", self.token] if self.token else []
        env = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIGGER_")}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                            preexec_fn=end_with_parent)
        wait_until(lambda: self.process.poll() is not None or "listener=" in self.log.read_text(), "the sidecar's address")
        if self.process.poll() is not None:
            sys.exit(f"walk.py: the sidecar ended:\n{self.log.read_text()}")
        self.port, self.admin = (int(re.search(rf"{side}=http://127\.0\.0\.1:(\d+)", self.log.read_text()).group(1))
                                 for side in ("listener", "admin"))

    def stop(self):
        self.process.kill()
        self.process.wait()

    def api(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self.token}"} if self.token else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def send(self, path=CHAT, model="gpt-4o", headers=()):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return call(self.port, path, json.dumps(body).encode(), headers)


class Walk:
    """The sidecar, its providers, and a browser with one page; every message of its console is kept."""

    def __init__(self, options, browser):
        self.browser, self.messages, self.urls = browser, [], set()
        # The sidecar notices after 15 s at the latest that a stream's client has left; until then its place is taken.
        self.expected = {"503 (Service Unavailable)"}
        self.gate = threading.Event()
        self.gate.set()
        self.sound, self.broken = Provider(self.respond), Provider(lambda reply: reply.error(500))
        self.sidecar = Sidecar(options.program, POLICY.format(sound=self.sound.url, broken=self.broken.url))
        self.template = options.ui or "http://127.0.0.1:{admin}/ui/"
        self.axe = options.axe_source
        for _ in range(8):
            self.sidecar.send()
        self.page = self.new_page()

    def respond(self, reply):
        self.gate.wait(30)
        reply.good()

    def close(self):
        self.gate.set()
        self.sidecar.stop()
        self.sidecar.folder.cleanup()

    def url(self, admin=None):
        return self.template.format(admin=admin or self.sidecar.admin)

    def new_page(self, width=1280, height=900, theme="light", admin=None):
        page = self.browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme,
                                     permissions=["clipboard-read", "clipboard-write"])
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.type in ("error", "warning") and
                self.messages.append(f"{message.text} ({message.location.get('url')})"))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.urls.add(request.url))
        page.goto(self.url(admin))
        return page

    def open(self, address, page=None):
        """Goes to a page by its address and waits until its heading is there."""
        page = page or self.page
        page.evaluate("address => { location.hash = `#/${address}`; }", address)
        page.wait_for_function("() => document.querySelector('#page-title') && !document.querySelector('.state strong')?.textContent.startsWith('Loading')")
        page.wait_for_function("name => document.querySelector('.nav-link[aria-current]')?.getAttribute('href') === `#/${name}`", arg=address.split("?")[0])
        return page

    def row(self, table, text):
        return self.page.get_by_role("table", name=table, exact=True).get_by_role("row").filter(has_text=text)

    def breaker(self, provider):
        return next(one for one in self.sidecar.api("/api/circuit-breakers")["breakers"] if one["provider"] == provider)

    def seconds_until(self, condition, change):
        """How long after `change` a condition in the page holds; a JavaScript expression without side effects."""
        self.page.evaluate(WATCH.replace("CONDITION", condition))
        change()
        changed = time.time()
        return self.page.evaluate("() => window.seen") / 1000 - changed


WATCH = """() => { window.seen = new Promise((resolve) => {
    const look = () => { if (CONDITION) resolve(Date.now()); else requestAnimationFrame(look); };
    look();
}); }"""


# The figures of the overview that differ from those of the API. Both are read at the same moment, again and again: a
# figure may change between the poll and the comparison.
FIGURES = """async () => {
    const status = await (await fetch('../api/status')).json();
    const f = await import(new URL('format.js', document.baseURI.split('#')[0]));
    const row = (name) => [...document.querySelectorAll('[aria-label=Providers] tbody tr')].find((tr) => tr.querySelector('strong').textContent === name)?.textContent ?? '';
    const missing = [];
    const want = (text, part) => { if (!text.includes(part)) missing.push(part); };
    const counts = [...document.querySelectorAll('.problem h3')].map((h3) => h3.textContent.replace(/\\d+\\w*/g, ''));
    const expected = status.problems.map((one) => f.sentence(one.what, one.subject).replace(/\\d+\\w*/g, ''));
    if (JSON.stringify(counts) !== JSON.stringify(expected)) missing.push(expected);
    want(document.querySelector('.side').textContent, status.policy);
    for (const one of status.providers) {
        want(row(one.name), `${one.in_flight} in flight`);
        want(row(one.name), `${f.number(one.in_flight)} of ${f.number(one.limit)}`);
        if (one.rates) for (const part of [f.compact(one.rates.attempts_per_second), f.percent(one.rates.client_success_share), `attempts ${f.percent(one.rates.success_share)}`, `p95 ${f.duration(one.rates.p95_ms)}`, f.percent(one.rates.share_seen)]) want(row(one.name), part);
}
    if (status.rates) {
        const figures = document.querySelector('.figures').textContent;
        for (const part of [f.compact(status.rates.requests_per_second), f.percent(status.rates.failed_share), f.duration(status.rates.p50_ms), f.cost(status.rates.cost_per_hour)]) want(figures, part);
}
    window.missing = missing;
    return missing.length === 0;
}"""


# ---- the tests: each takes the walk, and is run in this order --------------------------------------------------------

def the_broken_provider_is_named_on_the_first_screen(walk):
    page = walk.page
    expect(page.locator("#summary")).to_contain_text("broken")
    problem = page.locator(".problem").filter(has_text="broken").first
    expect(problem).to_be_in_viewport()
    expect(problem).to_contain_text("Critical")
    expect(problem.locator("code")).to_have_text("outrigger breakers")
    expect(walk.row("Providers", "broken").first).to_contain_text("Breaker open")


def figures_equal_those_of_the_api(walk):
    walk.open("overview")
    try:
        walk.page.wait_for_function(FIGURES, polling=150)
    except TimeoutError as error:
        raise AssertionError(f"not on the page: {walk.page.evaluate('() => window.missing')}") from error
    walk.open("breakers")
    for breaker in walk.sidecar.api("/api/circuit-breakers")["breakers"]:
        word = {"open": "Open", "closed": "Closed", "half_open": "Half-open"}[breaker["state"]]
        row = walk.row("Circuit breakers", breaker["provider"]).filter(has_text=breaker["endpoint"]).first
        expect(row).to_contain_text(word)
    walk.open("requests?filter=route:chat")
    count = len(walk.sidecar.api("/api/requests?limit=1000&filter=route:chat")["requests"])
    expect(walk.page.locator("[data-count]")).to_have_attribute("data-count", str(count))


def updates_arrive_within_a_second(walk):
    walk.open("overview")
    in_flight = "[...document.querySelectorAll('.figures dt')].find((dt) => dt.textContent === 'In flight')?.nextSibling.textContent.startsWith('1')"
    walk.gate.clear()
    waiting = threading.Thread(target=walk.sidecar.send)

    def begin():
        waiting.start()
        wait_until(lambda: any(one["in_flight"] for one in walk.sidecar.api("/api/status")["providers"]), "a request in flight")

    try:
        polled = walk.seconds_until(in_flight, begin)
    finally:
        walk.gate.set()
        waiting.join()
    walk.open("requests?filter=id:the-new-one")
    expect(walk.page.get_by_text("No request matches the filter")).to_be_visible()
    row = "document.querySelector('[aria-label=Requests] tbody tr')"
    streamed = walk.seconds_until(row, lambda: walk.sidecar.send(headers=["x-request-id: the-new-one"]))
    walk.open("breakers")
    opened = "[...document.querySelectorAll('[aria-label=\"Circuit breakers\"] tbody tr')].some((tr) => tr.textContent.includes('sound') && tr.textContent.includes('Open'))"
    changed = walk.seconds_until(opened, lambda: walk.sidecar.api("/api/circuit-breakers/open/sound", {"reason": "walk"}))
    walk.sidecar.api("/api/circuit-breakers/reset/sound", {})
    late = {name: seconds for name, seconds in (("polled", polled), ("streamed", streamed), ("changed", changed)) if seconds > 1}
    assert not late, f"updates came late: {late}"


def a_breaker_is_opened_and_closed_by_hand(walk):
    walk.open("breakers")
    page, row = walk.page, walk.row("Circuit breakers", "sound").first
    expect(row).to_contain_text("Closed")
    row.get_by_role("button", name="Change").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Open").check()
    dialog.get_by_label("Reason").fill("key rotation")
    dialog.get_by_label("Lasts").fill("soon")
    dialog.get_by_role("button", name="Open").click()
    expect(dialog.get_by_role("alert")).to_contain_text("soon")
    dialog.get_by_label("Lasts").fill("10m")
    dialog.get_by_label("Your name").fill("ann")
    dialog.get_by_role("button", name="Open").click()
    expect(dialog).to_have_count(0)
    expect(row).to_contain_text("Open")
    expect(row).to_contain_text("ann: key rotation")
    forced = walk.breaker("sound")["override"]
    assert forced["state"] == "open" and forced["by"] == "ann" and 590_000 < forced["remaining_ms"] <= 600_000, forced
    row.get_by_role("button", name="Change").click()
    dialog.get_by_label("Close", exact=False).first.check()
    dialog.get_by_label("Lasts").fill("")
    dialog.get_by_role("button", name="Close").click()
    expect(row).to_contain_text("manually closed")
    assert walk.breaker("sound")["override"]["state"] == "closed"
    row.get_by_role("button", name="Change").click()
    dialog.get_by_label("Reset").check()
    dialog.get_by_role("button", name="Reset").click()
    expect(row).not_to_contain_text("manually")
    assert "override" not in walk.breaker("sound")


def a_provider_is_drained_and_used_again(walk):
    walk.open("breakers")
    row = walk.row("Providers", "sound").first
    row.get_by_role("button", name="Drain").click()
    walk.page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(row).to_contain_text("Drained")
    walk.open("overview")
    expect(walk.row("Providers", "sound").first).to_contain_text("Drained")
    walk.open("breakers")
    row.get_by_role("button", name="Use again").click()
    walk.page.get_by_role("dialog").get_by_role("button", name="Use again").click()
    expect(row).to_contain_text("In use")


def why_a_request_went_there_takes_two_clicks(walk):
    walk.open("overview")
    page = walk.page
    page.get_by_role("link", name="Requests", exact=True).first.click()
    page.get_by_role("table", name="Requests").get_by_role("button").first.click()
    dialog = page.get_by_role("dialog")
    record = walk.sidecar.api("/api/requests?limit=1")["requests"][0]
    steps = walk.sidecar.api(f"/api/requests/{record['request_id']}")["decisions"]
    for step in steps:
        expect(dialog).to_contain_text(step["text"])
    line = next(i + 1 for i, text in enumerate(walk.sidecar.policy.read_text().splitlines()) if "name: chat" in text)
    expect(dialog).to_contain_text(f"policy.yaml:{line}")
    expect(dialog).to_contain_text("broken")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.locator("[data-filter]").fill("retried")
    count = len(walk.sidecar.api("/api/requests?limit=1000&filter=retried")["requests"])
    expect(page.locator("[data-count]")).to_have_attribute("data-count", str(count))
    retried = page.get_by_role("table", name="Requests").get_by_role("button").first
    retried.click()
    expect(dialog.locator(".lanes li").first).to_contain_text("500, failure")
    expect(dialog.locator(".lanes li").last).to_contain_text("sound")
    dialog.get_by_role("button", name="Copy as curl").click()
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith("curl -X 'POST'"), copied
    page.keyboard.press("Escape")


def filters_narrow_and_their_errors_are_shown(walk):
    walk.open("requests")
    page = walk.page
    page.locator("[data-filter]").fill("staus:5xx")
    walk.expected.add("400 (Bad Request)")
    error = page.get_by_role("alert").filter(has_text="did you mean `status`")
    expect(error).to_be_visible()
    page.locator("[data-filter]").fill("to:broken route:chat")
    expect(error).to_have_count(0)
    count = len(walk.sidecar.api("/api/requests?limit=1000&filter=to:broken+route:chat")["requests"])
    expect(page.locator("[data-count]")).to_have_attribute("data-count", str(count))
    assert "filter=to%3Abroken+route%3Achat" in page.url, page.url


def differences_name_the_broken_provider(walk):
    for _ in range(12):
        walk.sidecar.send("/jobs" + CHAT)
        walk.sidecar.send()
    walk.open("requests?view=differences")
    walk.page.get_by_role("button", name="The failed ones").click()
    row = walk.row("Differences", "failing").first
    expect(row).to_contain_text("provider")
    expect(row).to_contain_text("100 %")
    row.get_by_role("button", name="Show these").click()
    expect(walk.page.get_by_role("table", name="Requests")).to_be_visible()
    assert "to%3Afailing" in walk.page.url, walk.page.url


def jobs_are_retried_and_cancelled_in_bulk(walk):
    for _ in range(3):
        assert walk.sidecar.send("/jobs" + CHAT, headers=["prefer: respond-async"]).status == 202
    wait_until(lambda: walk.sidecar.api("/api/queue")["queues"][0]["jobs"]["states"].get("dead") == 3, "three dead jobs")
    walk.open("queue?state=dead")
    page = walk.page
    rows = page.get_by_role("table", name="Jobs").get_by_role("row")
    expect(rows).to_have_count(4)
    expect(rows.nth(1)).to_contain_text("Dead")
    page.get_by_label("All on this page").check()
    runs = walk.broken.count
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_text("3 jobs will run again")).to_be_visible()
    wait_until(lambda: walk.broken.count == runs + 3, "three more runs")
    expect(rows).to_have_count(4)
    # A paused queue keeps jobs that can be cancelled.
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True).first).to_be_visible()
    for _ in range(2):
        walk.sidecar.send("/jobs" + CHAT, headers=["prefer: respond-async"])
    page.get_by_role("button", name="Ready").click()
    expect(rows).to_have_count(3)
    page.get_by_label("All on this page").check()
    page.get_by_role("button", name="Cancel jobs").click()
    expect(page.get_by_text("No such job")).to_be_visible()
    assert walk.sidecar.api("/api/queue")["queues"][0]["jobs"]["states"]["cancelled"] == 2
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Dispatching").first).to_be_visible()


def the_line_of_a_bad_policy_is_shown(walk):
    good = walk.sidecar.policy.read_text()
    lines = good.splitlines()
    line = next(i for i, text in enumerate(lines) if "quick:" in text)
    lines[line] = "  quick: { failure_treshold: 3 }"
    try:
        walk.sidecar.policy.write_text("\n".join(lines) + "\n")
        walk.open("overview")
        expect(walk.page.locator(".problem").filter(has_text="policy was rejected")).to_contain_text("failure_treshold")
        walk.open("policies")
        content = walk.page.locator("main")
        expect(content).to_contain_text(f"policy.yaml:{line + 1}")
        expect(content).to_contain_text("quick: { failure_treshold: 3 }")
    finally:
        walk.sidecar.policy.write_text(good)
    expect(content).not_to_contain_text("failure_treshold: 3")
    walk.open("overview")
    expect(walk.page.locator(".problem").filter(has_text="policy was rejected")).to_have_count(0)


def hostile_names_are_text(walk):
    for name in HOSTILE:
        walk.sidecar.send("/models" + CHAT, model=name)
    walk.sidecar.api("/api/circuit-breakers/open/sound", {"by": MARKUP[:190], "reason": "\u202ereversed"})
    page = walk.page
    walk.open("requests?filter=route:models")
    rows = page.get_by_role("table", name="Requests").get_by_role("row")
    expect(rows).to_have_count(len(HOSTILE) + 1)
    expect(rows.filter(has_text="<img src=x").first).to_be_visible()
    expect(rows.filter(has_text="\\u202egnp.exe")).to_have_count(1)
    rows.filter(has_text="<img src=x").get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    for address in ("breakers", "overview", "events", "requests?view=differences", "fleet"):
        walk.open(address)
        hurt = page.evaluate("""() => [document.querySelector('main img, main script') && 'markup', document.title === 'injected' && 'script',
            document.body.textContent.includes('\\u202e') && 'a direction mark', document.documentElement.scrollWidth > innerWidth && `width of ${[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML.slice(0, 120))[0]}`].filter(Boolean)""")
        assert not hurt, f"{address}: {hurt}"
    walk.open("breakers")
    expect(walk.row("Circuit breakers", "<img src=x").first).to_be_visible()
    walk.sidecar.api("/api/circuit-breakers/reset/sound", {})


def keys_reach_everything(walk):
    page = walk.page
    walk.open("requests")
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    expect(page.locator("[data-filter]")).to_be_focused()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"), "focus left the dialog"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("b")
    expect(page.get_by_role("heading", name="Breakers", level=1)).to_be_focused()
    page.reload()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    change = walk.row("Circuit breakers", "sound").first.get_by_role("button", name="Change")
    change.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(change).to_be_focused()


def axe_finds_nothing(walk):
    for width, theme in ((1280, "light"), (390, "dark")):
        page = walk.new_page(width, 844, theme)
        session = page.context.new_cdp_session(page)
        session.send("Runtime.evaluate", {"expression": walk.axe})
        for address in [*PAGES, "requests?view=differences"]:
            walk.open(address, page)
            found = page.evaluate("""async () => (await axe.run(document, {resultTypes: ['violations']})).violations
                .map((one) => `${one.id}: ${one.nodes[0].html.slice(0, 200)}`)""")
            assert not found, f"{address} at {width} px, {theme}: {found}"
        page.close()


def nothing_scrolls_sideways_at_390_pixels(walk):
    page = walk.new_page(390, 844)
    for address in [*PAGES, "requests?view=differences", "requests?filter=route:models"]:
        walk.open(address, page)
        width = page.evaluate("() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert width <= 390, f"{address} is {width} px wide"
    walk.open("requests", page)
    page.get_by_role("table", name="Requests").get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("() => document.querySelector('dialog').scrollWidth") <= 390
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_role("heading", name="Events", level=1)).to_be_visible()
    page.close()


def the_token_is_asked_for(walk):
    sidecar = Sidecar(walk.sidecar.program, walk.sidecar.policy.read_text(), TOKEN)
    walk.expected.add("401 (Unauthorized)")
    sidecar.send()
    page = walk.new_page(admin=sidecar.admin)
    try:
        walk.open("breakers", page)
        page.get_by_role("table", name="Circuit breakers").get_by_role("button", name="Change breaker sound").click()
        page.get_by_role("dialog").get_by_role("button", name="Open").click()
        prompt = page.get_by_role("dialog", name="Admin token")
        prompt.get_by_label("Token").fill("not the token at all")
        prompt.get_by_role("button", name="Continue").click()
        expect(prompt.get_by_text("missing or wrong")).to_be_visible()
        prompt.get_by_label("Token").fill(TOKEN)
        prompt.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("table", name="Circuit breakers")).to_contain_text("manually open")
    finally:
        page.close()
        sidecar.stop()
        sidecar.folder.cleanup()


def a_lost_sidecar_is_shown_and_found_again(walk):
    walk.open("overview")
    page = walk.page
    walk.sidecar.stop()
    walk.expected.update(["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "502 (Bad Gateway)"])
    expect(page.get_by_role("alert").filter(has_text="Disconnected")).to_be_visible()
    expect(walk.row("Providers", "sound").first).to_be_visible()
    walk.sidecar.start()
    expect(page.get_by_role("alert").filter(has_text="Disconnected")).to_have_count(0)
    expect(page.locator(".side [data-connection]")).to_have_attribute("data-connection", "live")
    walk.sidecar.send(headers=["x-request-id: after-the-restart"])
    walk.open("requests?filter=id:after-the-restart")
    expect(page.get_by_role("table", name="Requests").get_by_role("row")).to_have_count(2)


def the_console_is_silent_and_no_other_origin_is_called(walk):
    origin = walk.url().split("/", 3)[:3]
    others = [url for url in walk.urls if url.split("/", 3)[:3] != origin and not url.startswith(("data:", "blob:"))
              and not re.match(r"http://127\.0\.0\.1:\d+/(ui|api)/", url)]
    assert not others, f"requests to other origins: {others}"
    # The sidecar has no fleet, which is a 404.
    errors = [text for text in walk.messages if not any(part in text for part in walk.expected) and "/api/fleet)" not in text]
    assert not errors, f"errors on the console: {errors[:5]}"


TESTS = [
    the_broken_provider_is_named_on_the_first_screen,
    figures_equal_those_of_the_api,
    updates_arrive_within_a_second,
    a_breaker_is_opened_and_closed_by_hand,
    a_provider_is_drained_and_used_again,
    why_a_request_went_there_takes_two_clicks,
    filters_narrow_and_their_errors_are_shown,
    differences_name_the_broken_provider,
    jobs_are_retried_and_cancelled_in_bulk,
    the_line_of_a_bad_policy_is_shown,
    hostile_names_are_text,
    keys_reach_everything,
    axe_finds_nothing,
    nothing_scrolls_sideways_at_390_pixels,
    the_token_is_asked_for,
    a_lost_sidecar_is_shown_and_found_again,
    the_console_is_silent_and_no_other_origin_is_called,
]


def run(options):
    """The names of the tests that failed."""
    failed = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=CHROMIUM)
        walk = Walk(options, browser)
        try:
            for test in TESTS:
                if options.only and test.__name__ not in options.only:
                    continue
                began, name = time.monotonic(), test.__name__.replace("_", " ")
                try:
                    test(walk)
                    print(f"ok    {name} ({time.monotonic() - began:.1f} s)", flush=True)
                except Exception as error:
                    failed.append(name)
                    print(f"FAIL  {name}: {str(error).strip()}", flush=True)
                    if options.screenshots:
                        traceback.print_exc()
                        walk.page.screenshot(path=f"{options.screenshots}/{test.__name__}.png")
                    walk.page.goto("about:blank")
                    walk.page.goto(walk.url())
        finally:
            walk.close()
            browser.close()
    return failed


def axe_source(folder):
    for path in ("axe.min.js", "axe-core/axe.min.js", "node_modules/axe-core/axe.min.js"):
        if (file := pathlib.Path(folder, path)).is_file():
            return file.read_text()
    sys.exit(f"walk.py: no axe.min.js in {folder}: run `npm install --prefix {folder} axe-core@4.14.1`")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the binary")
    parser.add_argument("--ui", help="the URL of another server's files, with {admin} for the port of the admin listener")
    parser.add_argument("--axe", default=os.environ.get("OUTRIGGER_TEST_AXE", ROOT / "target" / "axe"), help="the folder of axe-core")
    parser.add_argument("--browser", default=os.environ.get("OUTRIGGER_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"))
    parser.add_argument("--only", nargs="*", help="names of tests")
    parser.add_argument("--screenshots", help="a folder for a screenshot and a traceback of each failure")
    options = parser.parse_args()
    options.program = str(pathlib.Path(options.program).resolve())
    options.axe_source = axe_source(options.axe)
    began = time.monotonic()
    failed = run(options)
    print(f"{len(failed)} failed in {time.monotonic() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
