"""The mutants of a module: which small faults are made, and where.

Owns: the choice of operators, and what is left out. Pure: source text in, mutants out. The operators are Cosmic Ray's,
and one of our own, which removes a statement that only calls. Each comparison gets its opposite and its neighbour, so
that a boundary needs its own test; all ten of Cosmic Ray's would mostly repeat each other. Left out is what no test
should have to notice: annotations, which are never evaluated; Protocols, the arguments of classes and of `@dataclass`,
decorators that only cache or declare; the `strict` of a `zip`, which holds wherever the code is right; and a module's
constants that are numbers, which a test could only repeat.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import parso  # first: Cosmic Ray's plugins do not load before it
from cosmic_ray.ast import ast_nodes
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

OPERATORS = (
    *("AddNot", "ExceptionReplacer", "NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert"),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "BitOr_BitAnd", "BitAnd_BitOr", "LShift_RShift")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("RShift_LShift", "BitXor_BitAnd", "Pow_Mul")),
)

# Elsewhere an operator's sign means something else: `*` between parameters, `**` before a dictionary.
ARITHMETIC = ("arith_expr", "term", "power", "shift_expr", "and_expr", "xor_expr", "expr")

DECLARING = ("abstractmethod", "cache", "lru_cache")


class RemoveCall(Operator):
    """Removes a statement that only calls something, such as `self._marks.clear()`."""

    def mutation_positions(self, node):
        if node.type in ("atom_expr", "power") and node.parent is not None and node.parent.type == "simple_stmt":
            yield (node.start_pos, node.end_pos)

    def mutate(self, node, index):
        return parso.python.tree.Keyword("pass", node.start_pos, prefix=node.get_first_leaf().prefix)

    @classmethod
    def examples(cls):
        return (Example("forget(key)\n", "pass\n"),)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: the module's path, the function or class that it lies in, and the lines before and after."""

    module: str
    inside: str
    before: str
    after: str
    source: str
    line: int

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What it is known by in a list: it outlives changes elsewhere in the module."""
        return (self.module, self.inside, self.before, self.after)

    def is_python(self) -> bool:
        """Whether the fault leaves a module that can be compiled."""
        try:
            compile(self.source, self.module, "exec", dont_inherit=True)
        except SyntaxError:
            return False
        return True

    def lot(self, seed: int) -> str:
        """Its place in the drawing: changes to one function redraw no other's mutants."""
        return sha256(repr((seed, *self.identity, self.line)).encode()).hexdigest()


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module's source, in the order of its lines."""
    tree = ast.parse(source)
    left_out = [*_left_out(tree)]
    operators = [*(get_operator(f"core/{name}")() for name in OPERATORS), RemoveCall()]
    found = [
        _mutant(module, tree, source, changed, start[0])
        for node in ast_nodes(parso.parse(source))
        if node.type != "operator" or node.parent.type in ARITHMETIC
        for operator in operators
        for index, (start, _) in enumerate(operator.mutation_positions(node))
        if not any(first <= start < last for first, last in left_out)
        and (changed := _changed(source, node, operator, index)) is not None
    ]
    return sorted(found, key=lambda mutant: (mutant.line, mutant.after))


def _changed(source: str, node: parso.tree.NodeOrLeaf, operator: Operator, index: int) -> str | None:
    """The source with one fault. The node is afterwards as it was."""
    start = _offset(source, node.get_start_pos_of_prefix())
    length = len(node.get_code())
    children = [*getattr(node, "children", ())]
    values = [(leaf, leaf.value) for leaf in ast_nodes(node) if hasattr(leaf, "value")]
    try:
        changed = operator.mutate(node, index)
        text = changed.get_code() if changed is not None else ""
    except AttributeError:  # an exception's dotted name is too much for the operator
        return None
    finally:
        if children:
            node.children = children
        for leaf, value in values:
            leaf.value = value
    return source[:start] + text + source[start + length :]


def _offset(source: str, position: tuple[int, int]) -> int:
    line, column = position
    return sum(len(text) for text in source.splitlines(keepends=True)[: line - 1]) + column


def _left_out(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Module):
            parts = [
                constant.value for constant in node.body if isinstance(constant, ast.Assign) and _is_number(constant)
            ]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            parts = [node.returns, *(one for one in node.decorator_list if _name(one) in DECLARING)]
        elif isinstance(node, ast.ClassDef):
            is_protocol = any(_name(base) == "Protocol" for base in node.bases)
            declaring = [*node.keywords, *(call for call in node.decorator_list if isinstance(call, ast.Call))]
            parts = [node] if is_protocol else declaring
        elif isinstance(node, ast.Call):
            parts = _declared(node)
        for part in parts:
            if part is not None:
                # a decorator's own place begins at its `@`
                yield (part.lineno, max(0, part.col_offset - 1)), (part.end_lineno or 0, part.end_col_offset or 0)


def _declared(call: ast.Call) -> list[ast.AST | None]:
    """What a call says to whoever reads the code, or to a cache."""
    name, named = _name(call), [given.value for given in call.keywords]
    if name in DECLARING:
        return [*call.args, *named]
    if name in ("cast", "TypeVar", "NewType"):
        return [call.args[0]]
    return [*named] if name == "zip" else []


def _name(node: ast.expr) -> str:
    return getattr(node.func if isinstance(node, ast.Call) else node, "id", "")


def _is_number(constant: ast.Assign) -> bool:
    return all(isinstance(part, ast.Constant | ast.BinOp | ast.operator) for part in ast.walk(constant.value))


def _mutant(module: str, tree: ast.Module, source: str, changed: str, line: int) -> Mutant:
    old, new = source.splitlines(), changed.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    before, after = ("\n".join(text.strip() for text in lines) for lines in (old, new))
    return Mutant(module, _definition_at(tree, line), before, after, changed, line)


def _definition_at(node: ast.AST, line: int) -> str:
    """The dotted name of the function or class that a line lies in; empty outside of all."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
            if first <= line <= (child.end_lineno or line):
                inner = _definition_at(child, line)
                return f"{child.name}.{inner}" if inner else child.name
        elif not isinstance(child, ast.expr) and (found := _definition_at(child, line)):
            return found
    return ""
