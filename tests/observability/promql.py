"""The names and selectors in a PromQL expression."""

from __future__ import annotations

from collections.abc import Iterator

import promql_parser as promql


def vector_selectors(node: promql.Expr) -> Iterator[promql.VectorSelector]:
    """Every selector of series in the expression."""
    match node:
        case promql.VectorSelector():
            yield node
        case promql.MatrixSelector():
            yield node.vector_selector
        case promql.Call():
            for argument in node.args:
                yield from vector_selectors(argument)
        case promql.BinaryExpr():
            yield from vector_selectors(node.lhs)
            yield from vector_selectors(node.rhs)
        case promql.AggregateExpr():
            yield from vector_selectors(node.expr)
            if node.param is not None:
                yield from vector_selectors(node.param)
        case promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
            yield from vector_selectors(node.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"what is {type(node).__name__}?")


def names_in(expression: str) -> set[str]:
    """The names of its series."""
    found = list(vector_selectors(promql.parse(expression)))
    assert all(selector.name for selector in found), f"a selector without a name: {expression}"
    return {str(selector.name) for selector in found}
