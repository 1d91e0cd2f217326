"""A real Prometheus that scrapes sidecars with the shipped rules, on a faster time scale, and the alerts it shows."""
import json, re, subprocess, time, urllib.error, urllib.parse, urllib.request

from harness import ROOT, die, end_with_parent, wait_until

SCRAPE = 15
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
# Thresholds in seconds, which are scaled like ranges.
TIMES = {"OutriggerOldestJobWaiting": "> 600", "OutriggerQueueWaitLong": "> 10"}


def seconds_of(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", text))


def duration(seconds):
    return f"{max(1, round(seconds * 1000))}ms"


def scaled(rule, scale):
    rule = dict(rule)
    rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{duration(seconds_of(found[1]) / scale)}]", rule["expr"])
    if "for" in rule:
        rule["for"] = duration(seconds_of(rule["for"]) / scale)
    if threshold := TIMES.get(rule.get("alert")):
        if threshold not in rule["expr"]:
            die(f"{rule['alert']} has no threshold `{threshold}`, which the drill scales")
        rule["expr"] = rule["expr"].replace(threshold, f"> {float(threshold[2:]) / scale:.3f}")
    return rule


class Prometheus:
    def __init__(self, folder, targets, scale):
        import yaml
        self.names = []
        for name in ("rules.yaml", "alerts.yaml"):
            rules = yaml.safe_load((ROOT / "packaging/prometheus" / name).read_text())
            for group in rules["groups"]:
                self.names += [rule["alert"] for rule in group["rules"] if "alert" in rule]
                group["rules"] = [scaled(rule, scale) for rule in group["rules"]]
            (folder / name).write_text(yaml.safe_dump(rules))
        self.every = SCRAPE / scale
        every = duration(self.every)
        config = {"global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
                  "rule_files": ["rules.yaml", "alerts.yaml"],
                  "scrape_configs": [{"job_name": "app", "static_configs": [{"targets": targets}]}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        log = folder / "prometheus.log"
        with open(log, "wb") as file:
            self.process = subprocess.Popen(["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
                                             "--web.listen-address=127.0.0.1:0"], stdout=file, stderr=file, preexec_fn=end_with_parent)
        ready = lambda: "Server is ready" in log.read_text()
        wait_until(lambda: self.process.poll() is not None or ready(), "Prometheus")
        if self.process.poll() is not None:
            die(f"Prometheus exited with {self.process.returncode}:\n{log.read_text()}")
        self.port = int(re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', log.read_text())[1])
        self.begun = time.time()

    def get(self, path, **query):
        """The data of a response, or a text that says why there is none."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            return json.load(error)["error"]

    def series(self, expression):
        return self.get("query", query=expression)["result"]

    def end(self):
        self.process.terminate()
        self.process.wait()


class Watch:
    """The alerts that fire now, and the texts of all that ever did, by name and labels."""

    def __init__(self, prometheus):
        self.prometheus, self.firing, self.texts = prometheus, {}, {}

    def look(self):
        firing = [alert for alert in self.prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]
        self.firing = {(alert["labels"]["alertname"], frozenset(alert["labels"].items())): alert["annotations"] for alert in firing}
        self.texts.update(self.firing)
        return self.firing
