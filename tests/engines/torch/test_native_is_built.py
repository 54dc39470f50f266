"""Where there is a C compiler the decoding step is compiled: its tests are not left out unseen."""

from __future__ import annotations

import shutil
import sysconfig

import pytest

from reflective.engines.torch.backbones.native import library

COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C compiler here")
def test_with_a_compiler_the_step_is_compiled():
    assert library() is not None, "the installation's output says why; build again with pip install -v -e ."
