"""How every command of this project ends: 0 done, 1 a run failed, 2 the user's to mend (one message), 130 interrupted."""

import signal
import sys

import typer

from arch.errors import DataError, SpecError


def new_app(help):
    """A Typer app without its own tracebacks and shell completion."""
    return typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main(app, command, interrupted="interrupted; the same command resumes"):
    """Run `app`, which was started as `command`, and exit with the code that fits how it ended."""
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
    if code == 130:  # Typer's answer to a KeyboardInterrupt
        print(interrupted, file=sys.stderr)
    sys.exit(code or 0)


def _interrupt(signum, frame):
    raise KeyboardInterrupt
