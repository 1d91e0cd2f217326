"""Shared by the drills that measure several programs: Outrigger, and those configured in peers/.

Each program has core 1 to itself while it is measured; its provider and its load run on core 0. The figure is its own CPU
time, of all of its threads (/proc/PID/task/*/schedstat), which a busy machine disturbs little.
"""
import contextlib, os, pathlib, re, shutil, signal, socket, subprocess, tempfile, time
from harness import die, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "tests" / "drills" / "peers"
LOAD_CORE, PROXY_CORE = "0", "1"
RUNNING = []
# haproxy and nginx are in /usr/sbin, which is not on the PATH of every user.
os.environ["PATH"] += ":/usr/sbin:/sbin"


def options(parser, rounds):
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds")
    parser.add_argument("--profile", default="release", help="cargo profile to build Outrigger with")
    parser.add_argument("--binary", action="append", help="measure this file instead of building; may be repeated")
    parser.add_argument("--policy", type=pathlib.Path, default=ROOT / "examples" / "policies" / "llm.yaml", help="the policy with everything on")


def install(programs):
    missing = [program for program in programs if not shutil.which(program)]
    if not missing:
        return
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    if not shutil.which("apt-get") or (sudo and not shutil.which("sudo")):
        die(f"missing: {' '.join(missing)} (install them by hand: no apt-get here, or not root and no sudo)")
    print(f"installing by apt: {' '.join(missing)}", flush=True)
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", *missing], check=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def work_folder(prefix):
    """A temporary folder, with this process moved to the load's core. On exit, ends every started process."""
    if len(os.sched_getaffinity(0)) < 2:
        die("needs two cores: one for the proxy, one for the load")
    folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    # The workers of an nginx started by root run as the user `nobody` and need access.
    folder.chmod(0o755)
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    signal.signal(signal.SIGTERM, lambda *_: die("terminated"))
    try:
        yield folder
    finally:
        for process in RUNNING:
            process.terminate()
        for process in RUNNING:
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Proxy:
    """A running program, its port, and its measurements: a dict for each round."""

    def __init__(self, name, port, command, core, folder, env=None):
        self.name, self.port, self.rounds = name, port, []
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["taskset", "-c", core, *map(str, command)], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, cwd=folder, env={**os.environ, **(env or {})})
        RUNNING.append(self.process)
        wait_until(lambda: self.check_running() or is_open(port), f"{name}'s port {port}")
        for pid in self.pids():
            subprocess.run(["taskset", "-acp", core, str(pid)], check=True, stdout=subprocess.DEVNULL)
        self.idle = self.memory()

    def check_running(self):
        if self.process.poll() is not None:
            log = self.log.read_text(errors="replace")[-4000:]
            die(f"{self.name} exited with status {self.process.returncode}; its log:\n{log}")

    def all(self, figure):
        """One figure of every round."""
        return [round[figure] for round in self.rounds]

    def pids(self):
        """The process and its descendants: a master with workers is one proxy."""
        found, todo = set(), [self.process.pid]
        while todo:
            pid = todo.pop()
            if pid in found:
                continue
            found.add(pid)
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        return found

    def cpu(self):
        """CPU seconds of all threads so far, and the seconds that they waited for a busy core."""
        threads = [path for pid in self.pids() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")]
        stats = [path.read_text().split() for path in threads]
        return tuple(sum(int(stat[field]) for stat in stats) / 1e9 for field in (0, 1))

    def memory(self):
        """Resident memory in MiB."""
        status = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in self.pids()]
        return sum(int(kib) for text in status for kib in re.findall(r"VmRSS:\s+(\d+)", text)) / 1024


def start_peer(name, config, command, folder, port, backend, core=PROXY_CORE):
    """Starts a program with a configuration file of peers/, with the placeholders filled in."""
    text = (PEERS / config).read_text().replace("@DIR@", str(folder))
    path = folder / config
    path.write_text(text.replace("@BACKEND@", str(backend)).replace("@LISTEN@", str(port)))
    return Proxy(name, port, [*command, path], core, folder)


def everything_on(source, folder, backend):
    """The shipped policy with local providers and an access log file."""
    text, url = source.read_text(), f"http://127.0.0.1:{backend}"
    text = re.sub(r"(\burl:\s*[\"']?)https?://[^\s,}\"'/]+", rf"\g<1>{url}", text)
    # A preset without a URL has its provider's own, which no measurement may ask.
    text = re.sub(r"^( +)(preset:.*\n)(?!\1url:)", rf"\1\2\1url: {url}\n", text, flags=re.M)
    log = f"access_log: {{ to: {folder / 'access.jsonl'}, format: json }}"
    if re.search(r"^\s*access_log:", text, re.M):
        return re.sub(r"access_log:\s*\{[^}]*\}", log, text)
    if re.search(r"^server:\s*$", text, re.M):
        return re.sub(r"^server:\s*$", f"server:\n  {log}", text, flags=re.M)
    return text + f"\nserver:\n  {log}\n"


def pass_through(backend):
    """A policy that only forwards."""
    return (PEERS / "pass-through.yaml").read_text().replace("@BACKEND@", str(backend))


def binaries(o):
    """The binaries to measure by name: the given files, or a build of this source."""
    if o.binary:
        found = {path.name: path.resolve() for path in map(pathlib.Path, o.binary)}
        if len(found) < len(o.binary) or any(not path.is_file() for path in found.values()):
            die(f"--binary: expected existing files with different names: {' '.join(o.binary)}")
        return found
    print(f"building Outrigger (--profile {o.profile})", flush=True)
    subprocess.run(["cargo", "build", "--locked", "--profile", o.profile], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    return {"outrigger": target / {"dev": "debug"}.get(o.profile, o.profile) / "outrigger"}


def start_outrigger(name, binary, policy, folder, wrapper=()):
    """Starts Outrigger with a policy text, with its files in `folder`, optionally under a wrapper program."""
    (folder / "policies").mkdir(parents=True)
    (folder / "policies" / "policy.yaml").write_text(policy)
    env = {secret: "sk-test" for secret in re.findall(r"\$\{env:(\w+)", policy)}
    env["OUTRIGGER_DATA"] = "none"
    port, admin = free_port(), free_port()
    command = [*wrapper, binary, "run", "--policies", folder / "policies", "--workers", "1"]
    command += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    return Proxy(name, port, command, PROXY_CORE, folder, env)


def check_access_logs(folder, proxies, requests):
    """Checks that each access log has a line for every request, so the log was on during the measurement."""
    for proxy in proxies:
        log = folder / proxy.name / "access.jsonl"
        def lines():
            with open(log, "rb") if log.exists() else open(os.devnull, "rb") as text:
                return sum(1 for _ in text)
        wait_until(lambda: lines() >= requests(proxy), f"a line of {proxy.name}'s access log for each request")


def measure(proxy, seconds, connections):
    """Measures one round."""
    before, loaded = proxy.cpu()[0], []
    load = wrk(proxy.port, seconds, connections, lambda: loaded.append(proxy.memory()))
    proxy.check_running()
    spent = proxy.cpu()[0] - before
    proxy.rounds.append({**load, "loaded": loaded[0], "micros": spent / load["requests"] * 1e6,
                         "share": spent * load["rate"] / load["requests"]})


def wrk(port, seconds, connections, halfway=lambda: None):
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(PEERS / "post.lua"), url]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    RUNNING.append(load)
    time.sleep(seconds / 2)
    halfway()
    out, _ = load.communicate()
    RUNNING.remove(load)
    if load.returncode:
        die(f"wrk exited with status {load.returncode}: {out}")
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    lat = {share: float(value) * unit[u] for share, value, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", out)}
    bad, errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out), re.search(r"Socket errors: (.*)", out)
    return dict(requests=max(1, int(re.search(r"(\d+) requests in", out).group(1))),
                rate=float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), p50=lat["50"], p99=lat["99"],
                bad=int(bad.group(1)) if bad else 0, errors=errors.group(1) if errors else "")
