"""The compiled step by other compilers and on other processors: without OpenMP, on ARM (emulated), not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from reflective.engines.torch.backbones.native import binding

ROOT = Path(__file__).resolve().parents[3]
SOURCES = Path(binding.__file__).parent
DRIVER = Path(__file__).with_name("native_driver.c")
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = [
    *("-O1", "-w", "-pthread", "-fno-math-errno", "-fno-trapping-math"),
    *("-DLEAST_OPEN=1", f"-I{SOURCES}", str(DRIVER), "-lm"),  # even the driver's small matrices have open pieces
]
DENSE, BFLOAT16, INT8, INT7, INT4 = range(5)
NOT_THERE = 77  # the driver's answer to a level that the processor does not have

needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C compiler here")


def outputs(command, level, kind, threads):
    """Logits, log-probabilities and scores that the driver prints; None where the processor lacks the instructions."""
    done = subprocess.run([*command, str(level), str(kind), str(threads)], capture_output=True, text=True, check=False)
    if done.returncode == NOT_THERE:
        return None
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.split(), dtype=float)


def difference(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The driver for this processor, without OpenMP."""
    path = tmp_path_factory.mktemp("driver") / "driver"
    subprocess.run([COMPILER, *FLAGS, "-o", str(path)], check=True)
    return [str(path)]


@needs_compiler
@pytest.mark.slow
def test_a_thread_that_is_put_aside_is_not_waited_for(here):
    done = subprocess.run([*here, "aside"], capture_output=True, text=True, check=True, timeout=60)
    *times_done, too_late = map(int, done.stdout.split())
    assert times_done == [1] * 12, "every piece of every phase is written once, whoever computed it"
    assert too_late == 1


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", [DENSE, INT7])
def test_threads_of_our_own_change_nothing_though_some_are_put_aside(here, kind):
    alone = outputs(here, 0, kind, 1)
    assert len(alone) > 500 and np.isfinite(alone).all()
    for threads in (2, 5):
        assert np.array_equal(outputs(here, 0, kind, threads), alone)


@needs_compiler
@pytest.mark.slow
def test_the_extension_is_built_without_a_warning(tmp_path):
    flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-Wall", "-Werror"]
    command = [COMPILER, *flags, "-c", str(SOURCES / "decode.c"), "-o", str(tmp_path / "decode.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@needs_compiler
@pytest.mark.slow
def test_a_compiler_without_openmp_builds_it_and_one_that_fails_leaves_it_out(tmp_path):
    def build(name, script):
        compiler, out = tmp_path / name, tmp_path / f"{name}-out"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        places = ["--build-lib", str(out), "--build-temp", f"{out}-temp"]
        command = [sys.executable, "setup.py", "-q", "build_ext", *places]
        environment = {"CC": str(compiler), "LDSHARED": f"{compiler} -shared", "PATH": "/usr/bin:/bin", "CFLAGS": "-O0"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done, list(out.rglob("_decode*.so"))

    refuses = 'for a in "$@"; do [ "$a" = -fopenmp ] && { echo "unsupported option -fopenmp" >&2; exit 1; }; done'
    done, built = build("apple", f'{refuses}\nexec {shutil.which(COMPILER)} "$@"')
    assert done.returncode == 0 and len(built) == 1, done.stderr[-2000:]
    assert binding.load(str(built[0])) is not None
    assert b"GOMP_parallel" not in built[0].read_bytes()
    done, built = build("broken", "echo 'too old' >&2; exit 1")
    assert done.returncode == 0 and not built, "the package installs all the same"


@needs_compiler
@pytest.mark.long
@pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which(EMULATOR) is None,
    reason=f"{CROSS} or {EMULATOR} is missing (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)",
)
@pytest.mark.parametrize("kind", [DENSE, BFLOAT16, INT8, INT7, INT4])
def test_arm_computes_what_this_processor_does(here, kind, tmp_path):
    arm = tmp_path / "arm"
    subprocess.run([CROSS, "-static", *FLAGS, "-o", str(arm)], check=True)
    reference = outputs(here, 0, kind, 1)
    newest = [EMULATOR, "-cpu", "max", str(arm)]
    # a code of an input may be rounded to the other side: plain C is as far from this processor's own instructions
    near = 2e-5 if kind in (DENSE, BFLOAT16) else 2e-2
    for level in (0, 1, 2):
        found = outputs(newest, level, kind, 2)
        assert found is not None, "the emulator has dotprod and i8mm"
        assert difference(found, reference) < near
        assert np.array_equal(outputs(newest, level, kind, 1), found)
    old = [EMULATOR, "-cpu", "cortex-a53", str(arm)]  # neither dotprod nor i8mm
    assert outputs(old, 1, kind, 1) is None
    assert difference(outputs(old, 0, kind, 1), reference) < near
