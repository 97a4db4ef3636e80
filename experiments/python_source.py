"""Python in texts that others wrote: parsed, and never run."""

import ast
import warnings


def parsed(text: str) -> ast.Module:
    """The syntax tree of a text. Raises SyntaxError, or ValueError for a NUL character, where it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes such as "\d" in the code of others
        return ast.parse(text)


def function_nodes(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a tree, in the order of their lines; one of them may be inside another.

    Only statements are visited, since a function stands in no expression: `ast.walk` visits ten times as many nodes.
    """
    found, rest = [], list(tree.body)
    while rest:
        statement = rest.pop()
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(statement)
        for part in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            for block in ("body", "orelse", "finalbody"):
                rest += getattr(part, block, ())
    return sorted(found, key=lambda node: node.lineno)
