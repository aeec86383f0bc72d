"""deploy/: what is shipped there is what systemd, cron and Prometheus take, and it works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import redis
import roles
from croniter import croniter
from doc_pages import OBSERVABILITY, SCALING, section
from prometheus_client import parser
from ruamel.yaml import YAML
from support import KIT, ROOT, run

import werk
from werk import registry
from werk.ops import metrics
from werk.store import keys
from werk.store.connection import link

DEPLOY = ROOT / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("werk-*.[st]*"))
BIN = "/opt/werk/.venv/bin"  # in all of them
HERE = str(Path(sys.executable).parent)
SANDBOX = KIT / "sandbox.py"


def unit(name: str) -> ConfigParser:
    found = ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(DEPLOY / name)
    return found


def yaml(name: str) -> Any:
    return YAML(typ="safe").load(DEPLOY / name)


def cron_lines() -> list[tuple[str, str, str]]:
    lines = (DEPLOY / "crontab").read_text().splitlines()
    found = (re.fullmatch(r"((?:\S+ +){5})(\S+) +(.*)", line) for line in lines)
    return [(one[1], one[2], one[3]) for one in found if one and not one[0].startswith("#")]


needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


@needs_systemd
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    assert UNITS == ["werk-sleep.service", "werk-sleep.timer", "werk-worker@.service"]
    for name in UNITS:
        (tmp_path / name).write_text((DEPLOY / name).read_text().replace(BIN, HERE))
    paths = [str(tmp_path / name.replace("@", "@1")) for name in UNITS]
    (tmp_path / "werk-worker@1.service").symlink_to(tmp_path / "werk-worker@.service")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_unit_is_hardened(name: str) -> None:
    words = ("security", "--offline=true", "--threshold=30", "--no-pager", DEPLOY / name)
    done = run(str(shutil.which("systemd-analyze")), *words)
    assert done.returncode == 0, done.stdout


def test_a_unit_that_is_always_restarted_never_stays_down() -> None:
    services = [name for name in UNITS if name.endswith(".service")]
    restarted = [name for name in services if "Restart" in unit(name)["Service"]]
    assert restarted == ["werk-worker@.service"]
    for name in restarted:  # systemd's default gives up after five starts in ten seconds
        assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"


def test_a_worker_imports_nothing_from_where_jobs_may_write() -> None:
    service = unit("werk-worker@.service")["Service"]
    assert (service["ProtectSystem"], service["WorkingDirectory"]) == ("strict", "/opt/werk")
    assert service["StateDirectory"] == "werk"


PROBE = """
import os, socket, subprocess
from pathlib import Path

TASKS = {"probe": "probe.probe"}


def probe(elsewhere: str) -> list[str]:
    file = Path(os.environ["STATE_DIRECTORY"]) / "kept"
    file.write_text("kept by a job")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    read = subprocess.run(["cat", file], capture_output=True, text=True, check=True).stdout
    try:
        Path(elsewhere).touch()
    except OSError as error:
        return [read, error.strerror]
    return [read, "it could write elsewhere"]
"""


def can_be_confined() -> bool:
    """Return whether this process may give another one mounts of its own."""
    words = ["unshare", "--mount", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(words, check=False).returncode == 0


@needs_systemd
@pytest.mark.skipif(not can_be_confined(), reason="only root may confine a process")
def test_a_job_can_work_within_what_the_unit_allows(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unit("werk-worker@.service")["Service"]
    state, code = tmp_path / "state-directory", tmp_path / "code"
    for folder in (state, code):
        folder.mkdir()
    (code / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(code)
    monkeypatch.setenv("WERK_REGISTRY", "probe:TASKS")
    registry.tasks.cache_clear()
    job = werk.enqueue("probe", str(code / "elsewhere"))
    worker = service["ExecStart"].replace(BIN, HERE).split()  # with all its slots
    assert worker[1:3] == ["worker", "--concurrency"]
    words = (SANDBOX, service["SystemCallFilter"], state, *worker, "--burst")
    env = {"PYTHONPATH": str(code), **roles.environment("worker")}
    done = run("python", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert job.result(1) == ["kept by a job", "Read-only file system"]
    assert (state / "kept").stat().st_mode & 0o777 == 0o600  # UMask=


def test_a_worker_may_finish_its_longest_job() -> None:
    service = unit("werk-worker@.service")["Service"]
    longest = max(task.timeout for task in registry.tasks().values())
    assert int(service["TimeoutStopSec"]) > longest
    assert (service["KillMode"], service["OOMPolicy"]) == ("mixed", "continue")
    assert service["Restart"] == "always"  # also when it was drained


def in_a_bare_environment(home: Path, command: str) -> Any:
    """Run a command as cron and systemd do: hardly a variable, and in the home of the user.

    systemd reads /etc/werk.env by itself; a line of the crontab has to.
    """
    file = home / "werk.env"
    role = "reader" if "werk status" in command else "caller"
    file.write_text(f"RQ_REDIS_URL='{roles.settings(role).redis_url}'\n")
    if "/etc/werk.env" not in command:
        command = f"set -a; . /etc/werk.env; {command}"
    bare = ("PATH=/usr/bin:/bin", "LANG=C", "SHELL=/bin/sh", f"HOME={home}")
    command = f"cd && {command.replace(BIN, HERE).replace('/etc/werk.env', str(file))}"
    return run("/usr/bin/env", "-i", *bare, "/bin/sh", "-c", command)


def test_what_the_timer_starts_on_two_hosts_is_one_job(
    tmp_path: Path, redis_url: str, connection: redis.Redis
) -> None:
    timer, service = unit("werk-sleep.timer")["Timer"], unit("werk-sleep.service")["Service"]
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*:0/5", "true")
    assert "--once-per 5m" in service["ExecStart"]
    assert timer["AccuracySec"] == "1s"  # by itself systemd is up to a minute late
    assert service["Type"] == "oneshot"
    for _ in range(2):
        done = in_a_bare_environment(tmp_path, service["ExecStart"])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert connection.llen("rq:queue:default") == 1


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_no_secret_on_a_command_line(name: str) -> None:
    command = unit(name).get("Service", "ExecStart", fallback="")
    assert "redis://" not in command


def test_what_cron_runs_is_quiet_and_once_on_two_hosts(
    tmp_path: Path, redis_url: str, connection: redis.Redis
) -> None:
    lines = cron_lines()
    assert len(lines) == 3
    for when, user, command in lines:
        assert croniter.is_valid(when.strip())
        assert user == "werk"
        assert "%" not in command  # cron would cut it there
        assert "://" not in command  # everyone can read this file
    for _, _, command in lines[:2] * 2:
        done = in_a_bare_environment(tmp_path, command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert connection.llen("rq:queue:default") == 2
    check = lines[2][2]
    done = in_a_bare_environment(tmp_path, check)
    assert done.stdout.startswith("WERK CRITICAL - queue default: 2 waiting and no worker")
    connection.flushall()
    assert in_a_bare_environment(tmp_path, check).stdout == ""


@pytest.fixture
def samples(redis_url: str, connection: redis.Redis) -> dict[str, set[str]]:
    """The names of all samples of /metrics, with the names of their labels."""
    connection.sadd("rq:queues", "rq:queue:default")
    facts = {"birth": "x", "queues": "default", "state": "idle"}
    connection.hset("rq:worker:one", mapping=facts)
    connection.sadd("rq:workers", "rq:worker:one")
    for field in ("sleep|failed", "took/default/sleep/0.1", "waited/default/sleep/0.1"):
        connection.hset("rq:werk:tallies", field, 1)
    connection.hset("rq:werk:would-refuse", "x", json.dumps({"last": 1, "count": 1, "reason": "y"}))
    cron = {"state": "running", "beat": 1, "since": 1, "lines": []}
    connection.hset("rq:werk:crons", "web1:/etc/werk/crontab", json.dumps(cron))
    page = metrics.exposition(link(roles.settings("reader")))
    found: dict[str, set[str]] = {}
    for family in parser.text_string_to_metric_families(page):
        for own in family.samples:
            found.setdefault(own.name, set()).update(own.labels)
    return found


def check_expression(expression: str, samples: dict[str, set[str]]) -> None:
    """Check that the metrics in an expression are there, with the labels that it names."""
    names = set(re.findall(r"\bwerk_\w+", expression))
    assert names <= samples.keys(), expression
    asked = set(re.findall(r"(\w+)=~?\"|(\w+)!=", expression)) if names else set()
    labels = {label for pair in asked for label in pair if label}
    labels |= {
        label
        for by in re.findall(r"\b(?:by|without) \(([^)]*)\)", expression)
        for label in re.findall(r"\w+", by)
    }
    for name in names:
        assert labels <= samples[name] | {"instance", "job"}, expression


def test_alerts_name_metrics_that_are_there(samples: dict[str, set[str]]) -> None:
    rules = [rule for group in yaml("werk-alerts.yml")["groups"] for rule in group["rules"]]
    assert len(rules) == 6
    for rule in rules:
        check_expression(rule["expr"], samples)
    assert any("werk_executions_total" in rule["expr"] for rule in rules)


def test_the_page_on_observability_names_metrics_that_are_there(
    samples: dict[str, set[str]],
) -> None:
    page = section(OBSERVABILITY, "Prometheus and Grafana")
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in samples}
    short = {f"werk_queue{name}" for name in re.findall(r"`(_\w+)`", page)}
    named = set(re.findall(r"`(werk_\w+)`", page)) | short
    assert {name for name in families if name.startswith("werk_")} == named
    for metric, bounds in (
        ("werk_wait_seconds", keys.WAIT_BOUNDS_S),
        ("werk_execution_seconds", keys.DURATION_BOUNDS_S),
    ):
        assert f"| `{metric}` | {', '.join(map(str, bounds))} |" in page


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text())
    return found


def test_the_dashboard_of_grafana_names_metrics_that_are_there(
    samples: dict[str, set[str]],
) -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    assert len(expressions) == 13
    for expression in expressions:
        check_expression(expression, samples)
    shown = set(re.findall(r"\bwerk_\w+", " ".join(expressions)))
    assert {"werk_wait_seconds_bucket", "werk_execution_seconds_bucket"} <= shown
    variables = {own["name"]: own for own in dashboard()["templating"]["list"]}
    for name in ("instance", "queue"):
        metric = re.fullmatch(r"label_values\((\w+).*\)", variables[name]["definition"])
        assert metric and metric[1] in samples
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(dashboard())))
    assert used == variables.keys()


def test_the_panels_of_grafana_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def kubernetes() -> dict[str, Any]:
    """Return what the page on scaling has for Kubernetes, by kind."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", section(SCALING, "Kubernetes"), re.DOTALL | re.M)
    found = [YAML(typ="safe").load(block) for block in blocks]
    return {own["kind"]: own["spec"] for own in found}


def test_a_pod_of_kubernetes_may_finish_its_longest_job() -> None:
    pod = kubernetes()["Deployment"]["template"]["spec"]
    longest = max(task.timeout for task in registry.tasks().values())
    assert pod["terminationGracePeriodSeconds"] > longest
    [container] = pod["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["werk", "status", "--here"]
        assert container[probe]["timeoutSeconds"] >= 5  # the start of Python on a busy node
    assert container["securityContext"]["readOnlyRootFilesystem"]
    volumes = {own["name"] for own in pod["volumes"]}
    assert {own["name"]: own["mountPath"] for own in container["volumeMounts"]}.keys() == volumes
    labels = kubernetes()["Deployment"]["selector"]["matchLabels"]
    assert labels == kubernetes()["Deployment"]["template"]["metadata"]["labels"]


def test_kubernetes_scales_on_metrics_that_are_there(samples: dict[str, set[str]]) -> None:
    found = kubernetes()
    triggers = found["ScaledObject"]["triggers"]
    for trigger in triggers:
        check_expression(trigger["metadata"]["query"], samples)
    [container] = found["Deployment"]["template"]["spec"]["containers"]
    words = container["command"]
    assert words[:3] == ["werk", "worker", "--concurrency"]
    assert triggers[0]["metadata"]["threshold"] == words[3]  # a pod for so many jobs


needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")


@needs_promtool
def test_prometheus_takes_its_files() -> None:
    done = run("/bin/sh", "-c", f"promtool check config --lint-fatal {DEPLOY}/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout


@needs_promtool
def test_prometheus_takes_the_expressions_of_grafana(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"expression_{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "grafana", "rules": rules}]}))
    done = run("/bin/sh", "-c", f"promtool check rules {file}")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("alert", "series", "good", "bad"),
    [
        ("WerkDown", 'up{job="werk"}', "1", "0"),
        ("WerkCritical", 'werk_problems{level="critical"}', "0", "1"),
        ("WerkLate", 'werk_queue_oldest_seconds{queue="low"}', "300", "301"),
        ("WerkFailing", 'werk_executions_total{task="a",outcome="failed"}', "7", "0+1"),
    ],
)
def test_an_alert_fires_when_it_should(
    tmp_path: Path, alert: str, series: str, good: str, bad: str
) -> None:
    def case(values: str, times: int) -> dict[str, Any]:
        found = {"eval_time": "20m", "alertname": alert}
        labels = dict(re.findall(r'(\w+)="(\w+)"', series))
        expected = {"exp_alerts": [{"exp_labels": labels}] * times}
        rows = [{"series": series, "values": f"{values}x20" if "+" in values else f"{values}+0x20"}]
        return {"interval": "1m", "input_series": rows, "alert_rule_test": [found | expected]}

    check_rules(tmp_path, [case(good, 0), case(bad, 1)])


def check_rules(folder: Path, tests: list[dict[str, Any]]) -> None:
    file = folder / "tests.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(DEPLOY / "werk-alerts.yml")], "tests": tests}))
    done = run("/bin/sh", "-c", f"promtool test rules {file}")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_are_of_one_queue(tmp_path: Path) -> None:
    """Jobs of two tasks wait in two queues; in one of them, a tenth waits for minutes."""
    waits = {("fast", "a"): (100, 100), ("low", "a"): (90, 100), ("low", "b"): (9, 10)}
    rows = {
        f'werk_wait_seconds_bucket{{queue="{queue}",task="{task}",le="{le}"}}': f"0+{count}x20"
        for (queue, task), counts in waits.items()
        for le, count in zip(("60", "300", "+Inf"), (*counts, counts[-1]), strict=True)
    }
    for queue, waiting, workers in (("fast", 5, 1), ("empty", 0, 0), ("low", 5, 0)):
        rows[f'werk_queue_waiting{{queue="{queue}"}}'] = f"{waiting}+0x20"
        rows[f'werk_queue_workers{{queue="{queue}"}}'] = f"{workers}+0x20"
    low = [{"exp_labels": {"queue": "low"}}]
    alerts = [
        {"eval_time": "20m", "alertname": name, "exp_alerts": low}
        for name in ("WerkSlow", "WerkNoWorker")
    ]
    series = [{"series": name, "values": values} for name, values in rows.items()]
    check_rules(tmp_path, [{"interval": "1m", "input_series": series, "alert_rule_test": alerts}])


def test_prometheus_scrapes_the_dashboard() -> None:
    config = yaml("prometheus.yml")
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["localhost:9181"]}]
    assert [(DEPLOY / name).exists() for name in config["rule_files"]] == [True]
