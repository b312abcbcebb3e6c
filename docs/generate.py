"""Write ``docs/reference`` from the program itself, so that it cannot say anything else.

python docs/generate.py            write the pages
python docs/generate.py --check    write nothing; fail when a page is out of date
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.settings import CONFIG_FILE, DEFAULT_HOME, ENVIRONMENT_PREFIX, RULES, TextRule

REFERENCE = Path(__file__).resolve().parent / "reference"
MADE = "<!-- Made by `make docs` from the program itself: change the program, not this page. -->"
WIDTH = 100
"""Columns at which lines wrap, however wide the terminal is that runs this."""


def cli_page() -> str:
    """Every command: usage, help, options."""
    from flexai.cli.root import cli

    intro = _wrapped("What a command exits with is on the page of [errors and exit codes](errors.md).")
    return _page("The `flexai` command", intro, *_command_sections(cli, _context(cli, "flexai", None)))


def _command_sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"{'#' * min(context.command_path.count(' ') + 2, 4)} `{context.command_path}`"
    yield _fence(command.get_usage(context))
    yield from _prose(command.help)
    records = (param.get_help_record(context) for param in command.params)
    yield _table(("option", "meaning"), ((f"`{names}`", text) for names, text in filter(None, records) if text))
    yield from _prose(command.epilog)
    if isinstance(command, click.Group):
        children = [
            (child, _context(child, name, context))
            for name in command.list_commands(context)
            if (child := command.get_command(context, name)) is not None and not child.hidden
        ]
        rows = [(_link(below), child.get_short_help_str(limit=200)) for child, below in children]
        yield _table(("command", "what it does"), rows)
        for child, below in children:
            yield from _command_sections(child, below)


def _link(context: click.Context) -> str:
    return f"[`{context.command_path}`](#{context.command_path.replace(' ', '-')})"


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)


def errors_page() -> str:
    """The tree of errors: exit codes, meanings, hints."""
    tree = list(_error_tree(CheckpointError))
    width = max(len(drawn) for drawn, _ in tree)
    return _page(
        "Errors and exit codes",
        _wrapped(
            "A command that has done its work exits with 0. One that has not says why in one sentence, then `hint:`"
            " and what to try next, and exits with its error's code. From Python: `flexai.checkpoints.errors` holds"
            " the classes; each error has a `message`, a `hint` and an `exit_code`."
        ),
        _fence("\n".join(f"{drawn:{width}}  {kind.exit_code:>3}" for drawn, kind in tree)),
        _table(
            ("error", "exit code", "meaning", "hint, unless the error has a closer one"),
            (
                (f"`{kind.__name__}`", str(kind.exit_code), inspect.getdoc(kind) or "", kind.default_hint)
                for _, kind in tree
            ),
        ),
    )


def _error_tree(
    kind: type[CheckpointError], branch: str = "", trunk: str = ""
) -> Iterator[tuple[str, type[CheckpointError]]]:
    yield branch + kind.__name__, kind
    children = [child for child in kind.__subclasses__() if child.__module__ == CheckpointError.__module__]
    for child in children:
        last = child is children[-1]
        elbow, below = ("└── ", "    ") if last else ("├── ", "│   ")
        yield from _error_tree(child, trunk + elbow, trunk + below)


def settings_page() -> str:
    """Every setting: variable, key, default, meaning."""
    home, config = DEFAULT_HOME, CONFIG_FILE
    return _page(
        "Settings",
        _wrapped(
            f"A setting comes from its environment variable, else from its key in `{config}` in the home folder, else"
            " it has its default. `flexai config show` prints the settings in force and where each came from."
        ),
        _table(
            ("variable", f"key in `{config}`", "default", "meaning"),
            (
                (
                    f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
                    "" if name == "home" else f"`{name}`",
                    f"`{home}`" if name == "home" else _default(rule),
                    f"{rule.description}{_bounds(rule)}",
                )
                for name, rule in RULES.items()
            ),
        ),
        _wrapped(
            "Sizes are bytes, or a number with a unit: `64MiB` counts by 1024, `64MB` by 1000. Durations are seconds,"
            " or a number with a unit: `90s`, `15m`, `24h`, `7d`, `2w`."
        ),
    )


def _default(rule: TextRule) -> str:
    text = "" if rule.default is None else rule.write(rule.default)
    return f"`{text}`" if text else ""


def _bounds(rule: TextRule) -> str:
    """The limits that a value must keep to, in its own unit."""
    limits = [
        f"{word} `{rule.write(limit)}`"
        for word, attribute in (("at least", "least"), ("at most", "most"))
        if (limit := getattr(rule, attribute, None))
    ]
    return f"; {', '.join(limits)}" if limits else ""


def python_page() -> str:
    """What the package gives to Python: functions, results, and the Run that reports saves."""
    import flexai
    from flexai import api
    from flexai.training import Run

    results = {name: kind for name in flexai.__all__ if isinstance(kind := getattr(flexai, name), type)}
    functions = {name: one for name in api.__all__ if inspect.isfunction(one := getattr(api, name))}
    methods = [name for name in vars(Run) if not name.startswith("_") and callable(getattr(Run, name))]
    return _page(
        "The Python API",
        _wrapped(
            "What `import flexai` gives, and the `Run` by which a training script reports its saves. How they are"
            " used is told on the pages [From Python](../python.md) and [Reporting saves](../reporting.md); the errors"
            " are on [a page of their own](errors.md)."
        ),
        "## Functions",
        *(part for name, one in sorted(functions.items()) for part in _function("###", f"flexai.{name}", one)),
        "## Results",
        *(part for name, kind in sorted(results.items()) for part in _result(name, kind)),
        "## Reporting saves",
        *_function("###", "flexai.training.Run", Run),
        *(part for name in methods for part in _function("####", f"Run.{name}", getattr(Run, name))),
    )


def _function(marks: str, name: str, function: Callable[..., object]) -> Iterator[str]:
    yield f"{marks} `{name}`"
    signature = inspect.signature(function)
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values() if one.name != "self"]
    shown = signature.replace(parameters=bare, return_annotation=signature.empty)
    call = textwrap.fill(f"{name}{shown}", WIDTH, subsequent_indent="    ")
    yield f"```python\n{call}\n```"
    lead, *sections = re.split(r"^(Args|Returns|Raises|Example):\n", inspect.getdoc(function) or "", flags=re.M)
    yield from _prose(_plain(lead))
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        text = inspect.cleandoc(text)
        if title == "Example":
            yield f"```python\n{text}\n```"
        elif title == "Returns":
            yield _wrapped(f"**Returns.** {_plain(text)}")
        else:
            head = ("argument", "meaning") if title == "Args" else ("raises", "when")
            rows = (entry.partition(": ") for entry in re.split(r"\n(?=\S)", text))
            yield _table(head, ((f"`{name}`", _plain(meaning)) for name, _, meaning in rows))


def _result(name: str, kind: type) -> Iterator[str]:
    yield f"### `{name}`"
    yield from _prose(_plain(inspect.getdoc(kind) or ""))
    bodies = [_body(base) for base in reversed(kind.__mro__[:-1])]
    notes = dict(note for body in bodies for note in _notes(body))
    # As they are written: what a field has of it may be evaluated, and is spelled otherwise.
    types = {
        ast.unparse(one.target): ast.unparse(one.annotation)
        for body in bodies
        for one in body
        if isinstance(one, ast.AnnAssign)
    }
    names = [field.name for field in dataclasses.fields(kind)]
    yield _table(
        ("field", "type", "meaning"), [(f"`{name}`", f"`{types[name]}`", _plain(notes[name])) for name in names]
    )


def _body(kind: type) -> list[ast.stmt]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return definition.body


def _notes(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The names that are given a value or a type, each with the text below it."""
    for one, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
        text = below.value if isinstance(below, ast.Expr) else None
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, str(text.value) if isinstance(text, ast.Constant) else ""


def _plain(text: str) -> str:
    """A docstring's text as Markdown."""
    return re.sub(r":\w+:`(?:~?[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")


def json_page() -> str:
    """A JSON Schema of what each command prints with ``--json``."""
    documents = yaml.safe_load((Path(__file__).parent / "documents.yaml").read_text(encoding="utf-8"))
    sections = []
    for command, shape in sorted(documents["commands"].items()):
        schema, used = _schema(shape)
        types: dict[str, Any] = {}
        while used - types.keys():
            name = min(used - types.keys())
            types[name], more = _schema(documents["types"][name])
            used |= more
        whole = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
        whole |= {"$defs": dict(sorted(types.items()))} if types else {}
        sections += [f"## `flexai {command} --json`", f"```json\n{_folded(whole)}\n```"]
    return _page(
        "JSON documents",
        _wrapped(
            "What commands print with `--json`, as [JSON Schema](https://json-schema.org). A schema has every key of"
            " this version; a later one may add keys, and takes none away. What they mean is told on the page [JSON for"
            " programs](../scripting.md)."
        ),
        *sections,
    )


def _schema(shape: Any) -> tuple[dict[str, Any], set[str]]:
    """The JSON Schema of a shape in ``documents.yaml``, and the names of the types in it."""
    if isinstance(shape, str):
        name, _, null = shape.partition(" or ")
        if name == "any":
            return {}, set()
        if name in {"string", "integer", "number", "boolean"}:
            return {"type": [name, null] if null else name}, set()
        named = {"$ref": f"#/$defs/{name}"}
        return {"anyOf": [named, {"type": "null"}]} if null else named, {name}
    if isinstance(shape, list):
        (inner,) = shape
        schema, used = _schema(inner)
        return {"type": "array", "items": schema}, used
    parts = {key: _schema(value) for key, value in shape.items()}
    found: dict[str, Any] = {"type": "object"}
    if "*" in parts:
        found["additionalProperties"] = parts["*"][0] or True
    else:
        found["properties"] = {key.removesuffix("?"): schema for key, (schema, _) in parts.items()}
        found |= {"required": [key for key in parts if not key.endswith("?")], "additionalProperties": False}
    return found, set().union(*(used for _, used in parts.values()))


def _folded(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON in which what fits into a line is in one; ``before`` is how much stands before it in its line."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or indent + before + len(line) < WIDTH:
        return line
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        keys = {f"{json.dumps(key)}: ": one for key, one in value.items()}
        rows = [f"{pad}{key}{_folded(one, indent + 2, len(key))}" for key, one in keys.items()]
    else:
        rows = [pad + _folded(one, indent + 2) for one in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return ",\n".join(rows).join((f"{begin}\n", f"\n{' ' * indent}{end}"))


def events_page() -> str:
    """Every event that a run sends, its labels and its payload."""
    from flexai.tasks import events

    when = dict(_notes(ast.parse(inspect.getsource(events)).body))
    rows = [(f"`{getattr(events, name)}`", text) for name, text in when.items() if name.isupper() and name[0] != "_"]
    labels, payload = _sent(events.emit_checkpoint)
    told = (
        (
            "of a checkpoint",
            _keys(events.checkpoint_resource) + labels,
            _keys(events.checkpoint_payload) + payload,
        ),
        (f"`{events.LOST}`", *_sent(events.emit_lost)),
        (f"`{events.CORRUPTION}`", *_sent(events.emit_corruption)),
    )
    return _page(
        "Events",
        _wrapped(
            "What runs tell Prefect, for automations to go on from. How they are matched and used is told on the page"
            " about [what Prefect's UI shows](../observability.md#events)."
        ),
        _table(("event", "when"), rows),
        _table(("event", "labels", "payload"), ((name, *map(_codes, found)) for name, *found in told)),
    )


def _sent(function: Callable[..., object]) -> tuple[list[str], list[str]]:
    """The labels and the fields of the payload that a function writes out where it sends an event."""
    calls = [one for one in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(one, ast.Call)]
    (call,) = (one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "emit")
    (payload,) = (one.value for one in call.keywords if one.arg == "payload")
    return [key for one in call.args for key in _written_keys(one)], list(_written_keys(payload))


def _keys(function: Callable[..., object]) -> list[str]:
    """The keys of what a function returns."""
    return list(_written_keys(ast.parse(inspect.getsource(function))))


def _written_keys(node: ast.AST) -> Iterator[str]:
    """The keys of dictionaries that stand in a piece of code, those of Prefect left out; ``a.b`` of one in another."""
    if not isinstance(node, ast.Dict):
        for below in ast.iter_child_nodes(node):
            yield from _written_keys(below)
        return
    for key, value in zip(node.keys, node.values, strict=True):
        name = str(key.value) if isinstance(key, ast.Constant) else ""
        if name and not name.startswith("prefect."):
            inner = list(_written_keys(value))
            yield from (f"{name}.{one}" for one in inner) if inner else [name]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([MADE, f"# {title}", *filter(None, parts)]) + "\n"


def _fence(text: str) -> str:
    return f"```text\n{text}\n```"


def _prose(help_text: str | None) -> Iterator[str]:
    """Paragraphs of a help text; like click, this leaves those as they are that begin with a backspace."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text or "").partition("\f")[0]):
        if paragraph.startswith("\b"):
            yield _fence(paragraph.removeprefix("\b").strip("\n"))
        else:
            yield _wrapped(paragraph)


def _wrapped(text: str) -> str:
    """A paragraph in lines as long as those of the other pages."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [_row(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in rows]
    titles = list(head)
    return "\n".join([_row(titles), _row("---" for _ in titles), *lines]) if lines else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "events.md": events_page,
    "json.md": json_page,
    "python.md": python_page,
    "settings.md": settings_page,
}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with ``--check`` say which are out of date; 1 if any is."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the program itself.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    options = parser.parse_args(arguments)
    stale = []
    for name, make_page in PAGES.items():
        path, text = REFERENCE / name, make_page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'out of date, run make docs' if options.check else 'written'}: {', '.join(stale)}\n")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
