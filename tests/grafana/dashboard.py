"""A Grafana dashboard: its panels and expressions, and checks of both by Grafana's own types and the grammar of PromQL.

The tools are packages of npm, with the versions of package-lock.json beside this file, in target/grafana.
"""
import filecmp, json, pathlib, re, shutil, subprocess, tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
TOOLS = FOLDER.parents[1] / "target/grafana"
# The first and the last Grafana that the dashboard is for.
SCHEMAS = {"Grafana 12.0.0": "grafana-12", "Grafana 13.2.3": "@grafana/schema"}
PANELS = {"stat": "Stat", "state-timeline": "StateTimeline", "timeseries": "TimeSeries"}
# Enumerations become their values, as they are in JSON. The schema has no queries of Prometheus; these are their keys.
TYPES = """import type {{ Dashboard, DataQuery, Panel, RowPanel }} from '{package}';
{imports}
type Json<T> = T extends string ? `${{T}}`
  : T extends number ? (number extends T ? T : `${{T}}` extends `${{infer N extends number}}` ? N : never)
  : T extends object ? {{ [K in keyof T]: Json<T[K]> }} : T;
interface Query extends DataQuery {{
  expr: string; legendFormat?: string; editorMode?: 'code' | 'builder'; range?: boolean; instant?: boolean;
  format?: 'time_series' | 'table' | 'heatmap'; exemplar?: boolean; interval?: string;
}}
"""
IMPORT = "import type * as {name} from '../node_modules/{package}/dist/esm/raw/composable/{folder}/panelcfg/x/{name}PanelCfg_types.gen.js';"


def panels(board):
    """All panels, those within collapsed rows included."""
    for panel in board.get("panels", []):
        yield panel
        yield from panel.get("panels", [])


def expressions(board):
    """The panel and the expression of each query."""
    return [(panel, target["expr"]) for panel in panels(board) for target in panel.get("targets", [])]


def substitute(expression, **variables):
    """The expression with the values of the dashboard's variables in the place of `$name`."""
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], expression)


def install():
    """Installs the tools, unless they are there. The stamp is written last, so an installation that broke is repeated."""
    lock, stamp = FOLDER / "package-lock.json", TOOLS / "installed.json"
    if stamp.exists() and filecmp.cmp(lock, stamp, shallow=False):
        return
    print("installing by npm into target/grafana: Grafana's schemas, TypeScript, a parser of PromQL", flush=True)
    TOOLS.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json"):
        shutil.copy(FOLDER / file, TOOLS)
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", TOOLS], check=True)
    shutil.copy(lock, stamp)


def declarations(board):
    """A type, a name for people and a value for each part of the dashboard that has a type of its own."""
    yield "Dashboard", "the dashboard", {**board, "panels": []}
    for panel in panels(board):
        name = f"panel {panel['title']}"
        if panel["type"] == "row":
            yield "RowPanel", f"row {panel['title']}", {**panel, "panels": []}
            continue
        kind, defaults = PANELS[panel["type"]], dict(panel["fieldConfig"]["defaults"])
        custom = defaults.pop("custom", {})
        rest = {key: value for key, value in panel.items() if key not in ("options", "targets")}
        yield "Panel", name, {**rest, "fieldConfig": {**panel["fieldConfig"], "defaults": defaults}}
        yield f"{kind}.Options", f"{name}, options", panel["options"]
        for target in panel["targets"]:
            yield "Query", f"{name}, query {target['refId']}", target
        if custom:
            yield f"{kind}.FieldConfig", f"{name}, fieldConfig.defaults.custom", custom


def check_types(board):
    """The problems that TypeScript finds, one text each."""
    if unknown := {panel["type"] for panel in panels(board)} - {"row", *PANELS}:
        return [f"found panels of type {', '.join(sorted(unknown))}, which tests/grafana does not know"]
    parts, files = list(declarations(board)), {}
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        for number, (grafana, package) in enumerate(SCHEMAS.items()):
            imports = "\n".join(IMPORT.format(name=name, package=package, folder=name.lower()) for name in PANELS.values())
            text = TYPES.format(package=package, imports=imports)
            files[f"board{number}.ts"] = grafana, text.count("\n")
            lines = [f"export const part{index}: Json<{kind}> = {json.dumps(value)};" for index, (kind, _, value) in enumerate(parts)]
            (pathlib.Path(folder) / f"board{number}.ts").write_text(text + "\n".join(lines) + "\n")
        done = subprocess.run([TOOLS / "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext",
                               "--target", "es2022", *files], cwd=folder, capture_output=True, text=True)
    found = re.findall(r"^(board\d+\.ts)\((\d+),\d+\): error \w+: (.*)$", done.stdout, re.M)
    if done.returncode and not found:
        return [f"tsc failed:\n{done.stdout}{done.stderr}"]
    problems = []
    for file, line, problem in found:
        grafana, before = files[file]
        index = int(line) - 1 - before
        problems.append(f"{parts[index][1] if index >= 0 else 'the imports'}: {grafana}: {problem}")
    return problems


def check_expressions(found):
    """The problem of each expression, None for one that parses."""
    shutil.copy(FOLDER / "promql.mjs", TOOLS)
    done = subprocess.run(["node", TOOLS / "promql.mjs"], input=json.dumps(found), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
