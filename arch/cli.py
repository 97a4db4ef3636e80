"""Run a command-line app and exit with the project's codes.

0: success. 1: a run failed. 2: an error that the user can correct, shown as one message. 130: interrupted.
"""

import signal
import sys

import typer

from arch.errors import DataError, SpecError


def new_app(help):
    """A Typer app without Typer's tracebacks and shell completion."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main(app, command, interrupted="interrupted; the same command resumes"):
    """Run `app`, started as `command`, and exit with one of the codes above. interrupted: the message for code 130."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(prog_name=command, standalone_mode=False)
    except (SpecError, DataError) as error:
        print(error, file=sys.stderr)
        code = 2
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        if hasattr(error, "show"):
            error.show()
        code = error.exit_code
    if code == 130:  # Typer returns this code for a KeyboardInterrupt
        print(interrupted, file=sys.stderr)
    sys.exit(code or 0)


def warn(sentences, file=None):
    """Print each sentence as a warning, on a line of its own; to standard output, unless a file is given."""
    for sentence in sentences:
        print(f"warning: {sentence}", file=file)


def _interrupt(signum, frame):
    raise KeyboardInterrupt
