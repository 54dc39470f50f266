"""The command line, for the plan's command."""

import pytest

from reflective.cli import main


@pytest.fixture
def run(capsys):
    """Run a command line: exit code, stdout, stderr."""

    def call(*argv):
        code = main(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return call
