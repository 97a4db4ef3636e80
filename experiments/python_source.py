"""Python in texts that others wrote: parsed, and never run."""

import ast
import warnings


def parsed(text: str) -> ast.Module:
    """The syntax tree of a text. Raises SyntaxError, or ValueError for a NUL character, where it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes such as "\d" in the code of others
        return ast.parse(text)
