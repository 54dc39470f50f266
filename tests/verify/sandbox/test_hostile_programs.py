"""Programs that try to get out, to take everything, or to stay: in bubblewrap, and by the kernel's own means."""

# ruff: noqa: E501  (programs in strings)

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflective.verify.code.sandbox import Limits, Sandbox, SandboxError

MIB = 2**20


def _sandboxes() -> dict[str, Sandbox]:
    found = {}
    try:
        best = Sandbox.find(insist=True)
        found["weak"] = Sandbox(None, "told so")
        if best.bwrap:
            found["bubblewrap"] = best
    except SandboxError:
        pass
    return found


SANDBOXES = _sandboxes()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SANDBOXES, reason="no sandbox on this system")]


@pytest.fixture(params=["bubblewrap", "weak"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param not in SANDBOXES:
        pytest.skip("bubblewrap is not installed or does not work: only the weaker sandbox is tested")
    return SANDBOXES[request.param]


def limits(**changed: float) -> Limits:
    return Limits(**{"wall_s": 20.0, "memory_bytes": 512 * MIB, "processes": 16, **changed})  # type: ignore[arg-type]


def processes_named(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[str]:
    """A mark for command lines; afterwards no process bears it."""
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    yield mark
    deadline = time.monotonic() + 10.0
    while (left := processes_named(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_an_honest_program_runs(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        "import sys\nprint(int(input()) + 1)\nprint('é', file=sys.stderr)\nopen('x', 'w').write('y')\nexit(3)",
        stdin=b"41\n",
        limits=limits(),
    )
    assert (outcome.stdout, outcome.code, outcome.end) == (b"42\n", 3, "exit")
    assert outcome.stderr == "é\n".encode()


def test_every_run_has_an_empty_scratch_folder_and_large_input_and_output_pass(sandbox: Sandbox) -> None:
    program = (
        "import os, sys\nassert not os.listdir()\nopen('left', 'w').close()\nsys.stdout.write(sys.stdin.read()[::-1])"
    )
    data = b"0123456789" * 200_000
    for _ in range(2):
        assert sandbox.run(program, stdin=data, limits=limits()).stdout == data[::-1]


def test_a_fork_bomb_stays_small_and_ends(sandbox: Sandbox, nothing_stays: str) -> None:
    program = f"""
import os, sys, time
mark = {nothing_stays!r}
for _ in range(300):
    try:
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-S", "-c", "while True: pass", mark])
    except OSError:
        print("refused", flush=True)
        break
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
"""
    began = time.monotonic()
    outcome = sandbox.run(program, limits=limits(wall_s=3.0))
    assert outcome.end in ("time", "processes", "memory")
    assert time.monotonic() - began < 60.0
    if sandbox.bwrap or os.geteuid() != 0:
        assert outcome.stdout.startswith(b"refused")


@pytest.mark.parametrize(
    "bomb",
    [
        "x = 'a' * (4 << 30)",
        "x = []\nwhile True: x.append(bytearray(8 << 20))",
        "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        x = bytearray(300 << 20)\n        import time; time.sleep(15)\nimport time; time.sleep(15)",
        "import mmap\nx = [mmap.mmap(-1, 200 << 20) for _ in range(40)]\nfor m in x: m.write(bytes(200 << 20))",
    ],
    ids=["one piece", "many pieces", "many processes", "shared"],
)
def test_a_memory_bomb_ends(sandbox: Sandbox, bomb: str) -> None:
    outcome = sandbox.run(bomb, limits=limits())
    assert outcome.end == "memory" or b"MemoryError" in outcome.stderr or b"Cannot allocate memory" in outcome.stderr


def test_endless_output_ends(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        outcome = sandbox.run(
            f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", limits=limits(output_bytes=MIB)
        )
        assert outcome.end == "output" and len(outcome.stdout) <= 2 * MIB


def test_computing_and_sleeping_without_end_are_ended(sandbox: Sandbox) -> None:
    assert sandbox.run("while True: pass", limits=limits(wall_s=1.0)).end == "time"
    assert sandbox.run("import time; time.sleep(100)", limits=limits(wall_s=1.0)).end == "time"
    began = time.monotonic()
    busy = sandbox.run("while True: pass", limits=limits(wall_s=60.0, cpu_s=1.0))
    assert busy.end == "time" and time.monotonic() - began < 55.0


def test_an_ignored_signal_of_time_does_not_help(sandbox: Sandbox) -> None:
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    outcome = sandbox.run(program, limits=limits(wall_s=60.0, cpu_s=1.0))
    assert outcome.code != 0 and outcome.seconds < 55.0


def test_no_network_not_even_to_this_machine(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"""
import socket
def tries():
    yield lambda: socket.create_connection(("127.0.0.1", {port}), 2)
    yield lambda: socket.create_connection(("1.1.1.1", 53), 2)
    yield lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53))
    yield lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).bind((0, 0)) or socket.if_nameindex()[1]
    yield lambda: socket.getaddrinfo("example.org", 80)
for attempt in tries():
    try:
        print("out", attempt())
    except (OSError, IndexError):
        print("held")
"""
        outcome = sandbox.run(program, limits=limits())
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert outcome.stdout.split() == [b"held"] * 5, outcome.stderr


def test_a_daemons_socket_is_out_of_reach(sandbox: Sandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        os.chmod(path, 0o777)
        program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({path!r})\nprint('out')"
        outcome = sandbox.run(program, limits=limits())
    assert outcome.stdout == b"" and outcome.code == 1


def test_nothing_outside_scratch_can_be_written(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    program = f"""
import os, sys
places = ["..", "../..", "/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/usr", "/usr/lib", "/etc", "/root", "/home", "/proc/sys",
          {str(tmp_path)!r}, os.path.dirname(sys.executable), os.path.dirname(os.__file__), *sys.path]
for place in places:
    for make in (lambda: open(place + "/hello", "w"), lambda: os.mkdir(place + "/hello2"), lambda: os.symlink("/", place + "/hello3")):
        try:
            make()
            print("wrote in", place)
        except OSError:
            pass
for file in ("/proc/self/oom_score_adj", "/proc/sysrq-trigger", "/sys/power/state", "/dev/sda", "/dev/mem", os.__file__):
    try:
        open(file, "r+b").write(b"-1000")
        print("wrote", file)
    except OSError:
        pass
"""
    outcome = sandbox.run(program, limits=limits())
    assert outcome.code == 0, outcome.stderr
    written = [line for line in outcome.stdout.decode().splitlines() if line != "wrote /proc/self/oom_score_adj"]
    assert written == [] and list(tmp_path.iterdir()) == []


def test_neither_files_nor_the_environment_can_be_read(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sesame-secret")
    secret.chmod(0o644)
    monkeypatch.setenv("SESAME", "sesame-environment")
    program = f"""
import glob, os
seen = [str(dict(os.environ))]
for path in ["/etc/passwd", "/etc/shadow", "/etc/hostname", {str(secret)!r}, os.path.expanduser("~root/.bashrc"), "/proc/1/environ",
             "/proc/self/environ", "/proc/1/cmdline", "/proc/1/maps", {f"/proc/{os.getpid()}/environ"!r}, *glob.glob("/proc/[0-9]*/environ")]:
    try:
        seen.append(open(path).read())
    except OSError:
        pass
for folder in ["/home", "/root", "/tmp", "/work", "/etc", "/var", {str(tmp_path)!r}]:
    try:
        seen.append("listed " + folder + " ".join(os.listdir(folder)))
    except OSError:
        pass
for number in range(3, 128):
    try:
        seen.append("still open: " + os.read(number, 100).decode(errors="replace"))
    except OSError:
        pass
print(seen)
"""
    outcome = sandbox.run(program, limits=limits())
    said = outcome.stdout.decode()
    assert outcome.code == 0, outcome.stderr
    assert "sesame" not in said and "root:" not in said and "still open" not in said
    assert "SESAME" not in said
    # of the home folder, at most the way to the interpreter can be seen
    assert ".ssh" not in said and "secret" not in said.replace(str(secret), "")


def test_the_host_is_neither_seen_nor_signalled(sandbox: Sandbox) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        program = f"""
import os, signal
for target in ({os.getpid()}, {victim.pid}, os.getppid(), 1, -1, -{os.getpgid(0)}):
    for number in (0, signal.SIGUSR1, signal.SIGKILL):
        try:
            if target != os.getpid():
                os.kill(target, number)
        except OSError:
            pass
print("still here")
"""
        received: list[int] = []
        import signal

        before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
        try:
            sandbox.run(program, limits=limits())
            time.sleep(0.2)
            assert received == [] and victim.poll() is None
        finally:
            signal.signal(signal.SIGUSR1, before)
            victim.kill()


def test_a_daemon_does_not_outlive_its_run(sandbox: Sandbox, nothing_stays: str) -> None:
    program = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3):
            os.close(number)
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(300)", {nothing_stays!r}])
    os._exit(0)
print("left it behind")
"""
    assert sandbox.run(program, limits=limits()).stdout == b"left it behind\n"


def test_a_daemon_that_keeps_the_output_open_does_not_hold_the_run(sandbox: Sandbox, nothing_stays: str) -> None:
    program = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(300)", {nothing_stays!r}])
print("done", flush=True)
"""
    outcome = sandbox.run(program, limits=limits())
    assert outcome.stdout == b"done\n" and outcome.seconds < 20.0


def test_a_run_that_is_given_up_leaves_nothing(sandbox: Sandbox, nothing_stays: str) -> None:
    program = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(300)", {nothing_stays!r}])
print("up", flush=True)
import time; time.sleep(300)
"""
    with sandbox.start(program, limits=limits()) as process:
        assert process.receive() == b"up"


def test_symbolic_links_lead_nowhere(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    program = f"""
import os
for number, target in enumerate([{str(secret)!r}, "/etc/passwd", "../../../etc/passwd", "/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd"]):
    os.symlink(target, f"link{{number}}")
    for mode in ("r", "a"):
        try:
            with open(f"link{{number}}", mode) as file:
                print("opened", target, mode)
        except OSError:
            pass
    try:
        os.link(target, f"hard{{number}}")
        print("linked", target)
    except OSError:
        pass
"""
    outcome = sandbox.run(program, limits=limits())
    assert outcome.stdout == b"" and outcome.code == 0, outcome.stderr
    assert secret.read_text() == "sesame"


def test_files_and_the_scratch_folder_have_limits(sandbox: Sandbox) -> None:
    one = sandbox.run("open('x', 'wb').write(bytes(64 << 20))", limits=limits(file_bytes=MIB))
    assert one.code != 0 or one.end == "scratch"
    many = "for n in range(200): open(str(n), 'wb').write(bytes(1 << 20))\nimport time; time.sleep(2)"
    outcome = sandbox.run(many, limits=limits(scratch_bytes=32 * MIB))
    assert outcome.end == "scratch" or b"No space left" in outcome.stderr


def test_no_way_to_more_rights(sandbox: Sandbox) -> None:
    program = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
held = []
for name, arguments in {
    "unshare": (0x10000000,), "setns": (0, 0), "ptrace": (0, 1, 0, 0), "mount": (b"x", b"/scratch", b"tmpfs", 0, None),
    "chroot": (b".",), "umount2": (b"/proc", 2), "setuid": (0,), "sethostname": (b"x", 1),
}.items():
    before = os.getuid()
    if getattr(libc, name)(*arguments) == 0 and not (name == "setuid" and before == 0):
        held.append(name)
for number in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC):
    try:
        resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        held.append(number)
    except (ValueError, OSError):
        pass
try:
    status = open("/proc/self/status").read()
except OSError:  # out of reach by Landlock
    status = "CapEff:\\t0000000000000000\\nNoNewPrivs:\\t1"
if "CapEff:\\t0000000000000000" not in status or "NoNewPrivs:\\t1" not in status:
    held.append(status)
print(held)
"""
    outcome = sandbox.run(program, limits=limits())
    assert outcome.stdout == b"[]\n", outcome


def test_a_weak_sandbox_is_refused_unless_one_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    from reflective.verify.code import sandbox as package

    monkeypatch.setattr(package.bubblewrap, "executable", lambda: None)
    package._best.cache_clear()
    try:
        monkeypatch.delenv(package.INSIST, raising=False)
        with pytest.raises(SandboxError, match="bubblewrap is not installed.*apt install bubblewrap"):
            Sandbox.find()
        with pytest.warns(RuntimeWarning, match="weak sandbox: bubblewrap is not installed"):
            assert Sandbox.find(insist=True).bwrap is None
        monkeypatch.setenv(package.INSIST, "1")
        with pytest.warns(RuntimeWarning, match="weak sandbox"):
            assert Sandbox.find().weakness.startswith("bubblewrap is not installed")
    finally:
        package._best.cache_clear()


def test_a_sandbox_that_can_not_be_set_up_is_no_verdict_on_the_program(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(SandboxError, match="bwrap: no permission"):
        Sandbox(str(broken)).run("print(1)")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_is_taken_where_it_is() -> None:
    assert Sandbox.find(insist=True).weakness == "" or os.environ.get("CI")
