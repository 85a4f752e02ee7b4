"""Every error message of the library, of its Python package and of the command-line tool has an entry in the troubleshooting
page, no entry is out of date, and no error is made in a way that this test cannot read.

A message is the text in the sources with … for each value in it: expects(n > 0, code, "plan: n is ", n, ", expected ...").

usage: error_messages.py SOURCE_FOLDER
"""

import ast
import re
import sys
from pathlib import Path

FOLDERS = ("include", "src", "backends", "python/src")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Where a message is given that was made elsewhere: error.hpp, the tool's input_error.hpp, and Python's of the tool's.
HANDED_ON = {"Error(code, message.str(), where)", "InputError(message.str())", "nb::value_error(error.what())"}


def call_arguments(text, begin):
    """The top-level arguments of the call whose opening bracket is just before `begin`."""
    arguments, current, depth, at = [], "", 0, begin
    while True:
        literal = LITERAL.match(text, at)
        if literal:
            current += literal.group()
            at = literal.end()
            continue
        character = text[at]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            if depth == 0:
                return arguments + [current.strip()]
            depth -= 1
        if character == "," and depth == 0:
            arguments.append(current.strip())
            current = ""
        else:
            current += character
        at += 1


def shape(arguments):
    """The message that these arguments are joined to, with … for each value."""
    text = ""
    for argument in arguments:
        literals = LITERAL.findall(argument)
        is_text = literals and not LITERAL.sub("", argument).strip()
        text += "".join(literals) if is_text else "…"
    return re.sub("…+", "…", text.replace("\\n", " ").replace('\\"', '"'))


class Messages:
    def __init__(self, source):
        self.source = source
        self.places = {}  # by message, the first place that has it
        self.unread = []
        for folder in FOLDERS:
            for file in sorted((source / folder).rglob("*")):
                if file.suffix in (".hpp", ".cpp", ".cu", ".hip"):
                    self.read_cpp(file)
        for file in sorted((source / "python/espalier").glob("*.py")):
            self.read_python(file)

    def add(self, message, place):
        if message.strip("… :"):
            self.places.setdefault(message, place)
        else:
            self.unread.append(f"{place}: a message that says nothing by itself: {message}")

    def read_cpp(self, file):
        text = re.sub(r"^[ \t]*//.*$", "", file.read_text(), flags=re.MULTILINE)
        chains = [[part.strip() for part in chain.split("<<")] for chain in re.findall(r"\btext << (.*?);", text, re.DOTALL)]
        for call in re.finditer(r"(throw )?\b(detail::fail|expects|bad_input|throw (?!Error\()[\w:]+|(?<=throw )Error)\(", text):
            place = f"{file.relative_to(self.source)}:{text.count(chr(10), 0, call.start()) + 1}"
            arguments = call_arguments(text, call.end())
            name = call[2].removeprefix("throw ")
            if any(argument.endswith("... parts") for argument in arguments):  # the functions themselves
                continue
            codes = [i for i, argument in enumerate(arguments) if re.search(r"\bErrorCode::", argument)]
            if f"{name}({', '.join(arguments)})" in HANDED_ON:
                continue
            if name in ("expects", "detail::fail") and codes:
                parts = arguments[codes[0] + 1 :]
            elif name == "bad_input" or name.startswith("std::"):
                parts = arguments
            else:
                parts = []
            if not parts:
                self.unread.append(f"{place}: {call[0]}{', '.join(arguments)})")
            elif parts[-1] == "text.str()":
                for chain in chains:
                    self.add(shape(parts[:-1] + chain), place)
            else:
                self.add(shape(parts), place)

    def read_python(self, file):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            place = f"{file.relative_to(self.source)}:{node.lineno}"
            text = node.exc.args[0] if isinstance(node.exc, ast.Call) and node.exc.args else None
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            if not all(isinstance(part, (ast.Constant, ast.FormattedValue)) for part in parts):
                self.unread.append(f"{place}: {ast.unparse(node)}")
                continue
            message = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
            self.add(re.sub("…+", "…", message), place)


def main():
    source = Path(sys.argv[1])
    messages = Messages(source)
    page = source / "docs/troubleshooting.md"
    entries = re.findall(r"^`(.+)`$", page.read_text(), re.MULTILINE) if page.exists() else []
    missing = [f"{place}: {message}" for message, place in messages.places.items() if message not in entries]
    stale = [entry for entry in entries if entry not in messages.places]
    twice = {entry for entry in entries if entries.count(entry) > 1}
    for message in missing:
        print(f"no entry in docs/troubleshooting.md: {message}")
    for entry in stale:
        print(f"docs/troubleshooting.md has an entry for a message that nothing throws: {entry}")
    for entry in twice:
        print(f"docs/troubleshooting.md has an entry twice: {entry}")
    for place in messages.unread:
        print(f"this test cannot read the error that is made here: {place}")
    print(f"{len(messages.places)} messages, {len(entries)} entries")
    return bool(missing or stale or twice or messages.unread or not messages.places)


if __name__ == "__main__":
    sys.exit(main())
