"""Fixtures of the command line's tests."""

import pytest

from reflective.cli import main


@pytest.fixture
def run(capsys):
    """Run a command line: exit code, stdout, stderr."""

    def call(*argv):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call
