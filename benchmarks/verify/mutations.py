"""Single small changes of a Python source: the faults that its tests should notice.

    for one in mutations_of(source): applied(source, one)

Operators as in the literature (Papadakis et al. 2019, "Mutation testing advances", section 3):
comparisons and their bounds, arithmetic, logic, constants off by one (of floats a tenth), swapped
arguments, forgotten keyword arguments, ends of slices, min for max, negated conditions, dropped
statements. Left alone: texts and what is written into them (f-strings, what `raise` says),
annotations, decorators, asserts, floats below 1e-4 (tolerances) and the keywords of `IDLE`, none of
which a number hangs on. An assignment is dropped only where the name had a value before: without it
nearly any test fails, which says nothing.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass
from itertools import chain

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum",
    "maximum": "minimum", "argmin": "argmax", "argmax": "argmin", "amin": "amax", "amax": "amin",
    "floor": "ceil", "ceil": "floor", "sum": "mean", "mean": "sum",
}  # fmt: skip
UNORDERED = ("asarray", "full", "getattr", "hasattr", "hypot", "isinstance", "zip")  # not swapped
SYMMETRIC = {  # nor those of ours whose first two arguments may stand either way, as is tested
    "cm3leon.evaluation.metrics.clip_score": ("cosines",),
    "cm3leon.evaluation.metrics.cmmd": ("cmmd",),
    "cm3leon.evaluation.metrics.kid": ("discrepancy",),
    "cm3leon.evaluation.statistics.frechet": ("frechet_from_features",),
}
PASSED = ("abs", "sqrt", "exp", "log", "square", "log_softmax", "sorted")  # called for nothing
IDLE = ("strict", "kind", "check_finite", "overwrite_a", "encoding", "dtype", "check")
IDLE_STATEMENTS = (ast.Import, ast.ImportFrom, ast.Assert, ast.Global, ast.Pass)
TOLERANCE = 1e-4  # floats below are left alone


@dataclass(frozen=True)
class Mutation:
    """One change: bytes [start, stop) of the source become `after`.

    `lines` are those of its statement (first, last), one of which runs when the change is reached;
    `function` is the outermost function around it (`Class.name`), None where it runs on import;
    `nth` counts equal changes of equal texts in one function.
    """

    kind: str
    start: int
    stop: int
    before: str
    after: str
    line: int
    lines: tuple[int, int]
    function: str | None
    nth: int = 0

    @property
    def name(self) -> str:
        """What stays the same when other lines of the file change."""
        return f"{self.function or 'module'}: {self.before} -> {self.after} #{self.nth}"


def applied(source: str, change: Mutation) -> str:
    """The source with the change made."""
    raw = source.encode()
    return (raw[: change.start] + change.after.encode() + raw[change.stop :]).decode()


def mutations_of(source: str) -> list[Mutation]:
    """All changes of a module's source, in its order; each parses and differs from it."""
    walk = _Walk(source)
    walk.body(ast.parse(source).body, None, [])
    found, seen = [], {}
    for one in sorted(walk.found, key=lambda one: (one.start, one.stop, one.after)):
        key = (one.function, one.before, one.after)
        seen[key] = seen.get(key, -1) + 1
        found.append(Mutation(**{**vars(one), "nth": seen[key]}))
    return found


def place_of(source: str, change: Mutation) -> Mutation:
    """The change with line, lines and function of where its bytes stand; no function where it
    reaches over the end of one."""
    raw = source.encode()
    first, last = (raw[:at].count(b"\n") + 1 for at in (change.start, change.stop))
    function, stack = None, [(node, "") for node in ast.parse(source).body]
    while stack:
        node, above = stack.pop()
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.ClassDef):
            stack += [(inner, f"{above}{node.name}.") for inner in node.body]
        elif node.body[0].lineno <= first and last <= node.end_lineno:
            function = f"{above}{node.name}"
    place = {"line": first, "lines": (first, last), "function": function}
    return Mutation(**{**vars(change), **place})


class _Walk:
    """Walks statements, then their expressions, and keeps what can be changed."""

    def __init__(self, source: str):
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Mutation] = []
        self.function: str | None = None
        self.lines = (0, 0)

    def body(self, statements: list, function: str | None, scope: list[str]) -> None:
        """Statements of a module, class, function or block."""
        known: set[str] = set()
        for node in statements:
            self.statement(node, function, scope, known)

    def statement(self, node, function, scope, known: set[str]) -> None:
        """One statement, the blocks inside it too; `known` are the names that have a value."""
        if isinstance(node, ast.ClassDef):
            self.body(node.body, function, [*scope, node.name])
        elif isinstance(node, ast.FunctionDef):
            self._function(node, function, scope)
        elif not isinstance(node, IDLE_STATEMENTS) and not _typing_only(node):
            self._at(node, function)
            self._plain(node, known)
            known |= {one.id for one in ast.walk(node) if _stored(one)}
            for block in ("body", "orelse", "finalbody", "handlers"):
                for inner in getattr(node, block, []):
                    for part in inner.body if isinstance(inner, ast.ExceptHandler) else [inner]:
                        self.statement(part, function, scope, known)

    def _function(self, node: ast.FunctionDef, function, scope) -> None:
        self._at(node, function)
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            self.expression(default)
        known = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
        name = ".".join([*scope, node.name])
        for inner in node.body:
            self.statement(inner, function or name, [*scope, node.name], known)

    def _plain(self, node, known: set[str]) -> None:
        """A statement without the blocks inside it."""
        if self._droppable(node, known):
            self._keep("statement dropped", node, "pass")
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            self._with(node, "arithmetic", op=ARITHMETIC[type(node.op)]())
        for inner in ast.iter_child_nodes(node) if not isinstance(node, ast.Raise) else ():
            if isinstance(inner, ast.expr) and inner is not getattr(node, "annotation", None):
                self.expression(inner)
            elif isinstance(inner, ast.withitem):
                self.expression(inner.context_expr)
        if isinstance(node, ast.If | ast.While):
            self._negated(node.test)

    def expression(self, node) -> None:
        """An expression and all inside it."""
        if node is None or isinstance(node, ast.JoinedStr):
            return
        getattr(self, f"_{type(node).__name__.lower()}", lambda node: None)(node)
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.comprehension):
                for part in (inner.target, inner.iter, *inner.ifs):
                    self.expression(part)
                for condition in inner.ifs:
                    self._negated(condition)
            elif isinstance(inner, ast.keyword):
                if inner.arg not in IDLE:
                    self.expression(inner.value)
            elif isinstance(inner, ast.arguments):
                for default in [*inner.defaults, *inner.kw_defaults]:
                    self.expression(default)
            else:
                self.expression(inner)

    def _compare(self, node: ast.Compare) -> None:
        for place, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                self._with(node, "comparison", ops=ops)

    def _binop(self, node: ast.BinOp) -> None:
        texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict)
        for side in (node.left, node.right):
            if isinstance(side, texts) or isinstance(getattr(side, "value", None), str):
                return
        if type(node.op) in ARITHMETIC:
            self._with(node, "arithmetic", op=ARITHMETIC[type(node.op)]())

    def _unaryop(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            self._keep("sign", node, f"({ast.unparse(node.operand)})")

    def _boolop(self, node: ast.BoolOp) -> None:
        self._with(node, "logic", op=ast.Or() if isinstance(node.op, ast.And) else ast.And())

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._keep("constant", node, str(not value))
        elif isinstance(value, int):
            for other in (value + 1, value - 1):
                self._keep("constant", node, f"({other})" if other < 0 else str(other))
        elif isinstance(value, float) and abs(value) >= TOLERANCE:
            self._keep("constant", node, repr(value * 1.1))
        elif value == 0.0 and isinstance(value, float):
            self._keep("constant", node, "0.1")

    def _ifexp(self, node: ast.IfExp) -> None:
        self._negated(node.test)

    def _call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        plain = [one for one in node.args if not isinstance(one, ast.Starred)]
        if name in PASSED and len(node.args) == len(plain) == 1 and not node.keywords:
            self._keep("call left out", node, f"({ast.unparse(plain[0])})")
        elif name in NAMES and (name, type(node.func)) != ("sum", ast.Name):
            func = copy.deepcopy(node.func)
            setattr(func, "id" if isinstance(func, ast.Name) else "attr", NAMES[name])
            self._with(node, "function", func=func)
        swapped = [*plain[1::-1], *plain[2:]]
        either_way = (*NAMES, *UNORDERED, *chain(*SYMMETRIC.values()))
        able = name not in either_way and len(plain) == len(node.args) >= 2
        if able and ast.dump(plain[0]) != ast.dump(plain[1]):
            self._with(node, "arguments swapped", args=swapped)
        for one in node.keywords:
            if one.arg is not None and one.arg not in IDLE:
                rest = [other for other in node.keywords if other is not one]
                self._with(node, "argument dropped", keywords=rest)

    def _slice(self, node: ast.Slice) -> None:
        for end in ("lower", "upper"):
            if getattr(node, end) is not None:
                self._with(node, "slice", **{end: None})

    def _negated(self, test) -> None:
        compared = isinstance(test, ast.Compare) and len(test.ops) == 1
        denied = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not compared and not denied:  # those have their opposite already
            self._keep("condition negated", test, f"(not ({ast.unparse(test)}))")

    def _droppable(self, node, known: set[str]) -> bool:
        if isinstance(node, ast.Raise | ast.AugAssign | ast.Continue | ast.Break):
            return True
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Call)
        if not isinstance(node, ast.Assign) or self.function is None:
            return False
        plain = [one for target in node.targets for one in ast.walk(target)]
        if any(isinstance(one, ast.Attribute) and _is_store(one) for one in plain):
            return False  # what __init__ sets: without it nothing works
        names = {one.id for one in plain if _stored(one)}
        return names <= known

    def _with(self, node, kind: str, **fields) -> None:
        """Keep the node with other fields."""
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        text = ast.unparse(ast.fix_missing_locations(other))
        whole = isinstance(node, ast.Slice | ast.stmt)
        self._keep(kind, node, text if whole else f"({text})")

    def _keep(self, kind: str, node, after: str) -> None:
        start = self.starts[node.lineno - 1] + node.col_offset
        stop = self.starts[node.end_lineno - 1] + node.end_col_offset
        before = self.raw[start:stop].decode()
        before = " ".join(before.split())
        change = Mutation(kind, start, stop, before, after, node.lineno, self.lines, self.function)
        try:
            ast.parse(applied(self.raw.decode(), change))
        except SyntaxError:
            return
        self.found.append(change)

    def _at(self, node, function: str | None) -> None:
        self.function = function
        header = hasattr(node, "body")  # of a block: without what it holds
        last = max(node.lineno, node.body[0].lineno - 1) if header else node.end_lineno
        self.lines = (node.lineno, last)


def _stored(node) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _is_store(node) -> bool:
    return isinstance(node.ctx, ast.Store)


def _typing_only(node) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
