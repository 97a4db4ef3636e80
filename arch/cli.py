"""Run a command-line app and exit with the project's codes.

0: success. 1: a run failed. 2: an error that the user can correct, shown as one message. 130: interrupted.
"""

import os
import re
import signal
import sys

import typer
from rich.console import Console

from arch import blame, early, terminal
from arch.errors import DataError, SpecError


def new_app(help):
    """A Typer app without Typer's tracebacks and shell completion."""
    settings = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(
        help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings=settings
    )


def main(app, command, interrupted="interrupted; the same command resumes"):
    """Run `app`, started as `command`, and exit with one of the codes above. interrupted: the message for code 130."""
    early.state.message, early.state.running = interrupted, True
    terminal.forget_unusable()
    signal.signal(signal.SIGTERM, early.interrupted)
    Console.on_broken_pipe = _broken_pipe  # type: ignore[method-assign]  # rich would end the process with code 1
    try:
        code = _strict(typer.main.get_command(app))(prog_name=command, standalone_mode=False)
        sys.stdout.flush()
    except (SpecError, DataError) as error:
        print(error, file=sys.stderr)
        code = 2
    except BrokenPipeError:
        code = _unread()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Click's answer to it
            sys.exit(_unread())
        if not (place := blame.own_place(error)):
            raise
        print(f"{place}: {blame.words(error)} was called", file=sys.stderr)
        code = 2
    except Exception as error:
        code = 130 if early.state.asked else _explained(error)
        if code is None:
            raise
    finally:
        early.state.running = False
    if code == 130:  # Typer returns this code for a KeyboardInterrupt
        print(interrupted, file=sys.stderr)
    sys.exit(code or 0)


def _strict(command):
    """A command, or a group with all of its commands, that refuses an option which is given twice and of which only the last
    value would count.
    """
    made = command.make_parser

    def make_parser(context):
        parser = made(context)
        parsed = parser.parse_args

        def parse_args(args):
            options, rest, order = parsed(args)
            for each in order:
                if order.count(each) > 1 and not (each.multiple or getattr(each, "is_flag", False)):
                    raise SpecError(f"given {order.count(each)} times; expected once", file=max(each.opts, key=len))
            return options, rest, order

        parser.parse_args = parse_args
        return parser

    command.make_parser = make_parser
    for each in getattr(command, "commands", {}).values():
        _strict(each)
    return command


def _point_elsewhere(error):
    """Where a command is missing and another group has it, the message names the group."""
    missing = re.match("No such command '([^']*)'", getattr(error, "message", ""))
    if missing and error.ctx:
        root, name = error.ctx.find_root(), missing[1]
        groups = {"": root.command} | {f"{group} ": command for group, command in root.command.commands.items()}
        found = [f"`{root.info_name} {path}{name}`" for path, group in groups.items() if name in getattr(group, "commands", {})]
        if found:
            error.message = f"No such command {name!r} here; there is {' and '.join(found)}."


def _explained(error):
    """The code for an error, after one message on it; None for one that only a developer of this project can correct."""
    if hasattr(error, "exit_code"):
        if hasattr(error, "show"):
            _point_elsewhere(error)
            error.show()
        return error.exit_code
    if place := blame.own_place(error):  # a component of the user's own
        print(f"{place}: {blame.words(error)}", file=sys.stderr)
        return 2
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):  # as torch says it
        asked = re.search(r"allocate ([\d,.]+) ?(\w+)", str(error))
        print(f"not enough memory{f' for {asked[1]} {asked[2]}' if asked else ''}", file=sys.stderr)
        return 2
    if isinstance(error, OverflowError) or re.search("overflow(ed)? (when unpacking|with sizes)", str(error), re.IGNORECASE):
        print("a number is too large: sizes and counts are held in 64 bits", file=sys.stderr)
        return 2
    if isinstance(error, OSError):
        reason = error.strerror or blame.words(error)
        print(f"{f'{error.filename}: ' if error.filename else ''}{reason}", file=sys.stderr)
        return 2
    return None


def warn(sentences, file=None):
    """Print each sentence as a warning, on a line of its own; to standard output, unless a file is given."""
    for sentence in sentences:
        print(f"warning: {sentence}", file=file)


def _unread():
    """The code where whoever reads, such as `head`, has enough. What is left to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _broken_pipe(console):
    raise BrokenPipeError
