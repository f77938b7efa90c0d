# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How every command line ends."""

import subprocess
import sys
import textwrap

import pytest

from sn_mm.checkpoints import CheckpointError
from sn_mm.cli import LaunchError, command


def raising(error, *expected):
    @command(*expected)
    def main(args=None):
        """Fail."""
        if error is not None:
            raise error
        print(args)

    return main


def test_success_is_status_0(capsys):
    main = raising(None)
    assert main(['x']) == 0 and capsys.readouterr().out == "['x']\n"
    assert main.__doc__ == 'Fail.'


@pytest.mark.parametrize('kind', [LaunchError, CheckpointError, OSError])
def test_expected_errors_are_one_line_and_status_1(kind, capsys):
    assert raising(kind('take another'), OSError)() == 1
    assert capsys.readouterr().err == 'error: take another\n'


def test_an_interruption_is_one_line_and_the_shells_status(capsys):
    assert raising(KeyboardInterrupt())() == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(KeyError):
        raising(KeyError('x'), OSError)()


@pytest.mark.parametrize('lines', [1, 100000])
def test_a_reader_that_has_gone_is_told_nothing(lines):
    program = f"""
        import sys
        from sn_mm.cli import command

        @command(OSError)
        def main(args=None):
            sys.stdin.read()  # until the reader has gone
            for i in range({lines}):
                print('a line', i)

        sys.exit(main())
    """
    process = subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b''
    assert process.wait() == 141
