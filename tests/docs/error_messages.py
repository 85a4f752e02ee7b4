"""Every error message that the library can throw has an entry in the troubleshooting page, and no entry is out of date.

A message is the text in the sources with … for each value in it: expects(n > 0, code, "plan: n is ", n, ", expected ...").

usage: error_messages.py SOURCE_FOLDER
"""

import re
import sys
from pathlib import Path

LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')


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
    return re.sub("…+", "…", text.replace("\\n", " "))


def thrown_messages(source):
    messages = {}
    files = [*source.glob("include/**/*.hpp"), *source.glob("src/*.?pp"), *source.glob("backends/portable/*.?pp")]
    files += [f for folder in ("plan/**", "tree", "kv_tree") for f in source.glob(f"src/{folder}/*.?pp")]
    files += [source / "src/validate/validate.cpp"]
    for file in files:
        text = re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.MULTILINE)
        for chain in re.finditer(r"\btext << (.*?);", text, re.DOTALL):
            place = f"{file.relative_to(source)}:{text.count(chr(10), 0, chain.start()) + 1}"
            messages.setdefault("…: " + shape([part.strip() for part in chain.group(1).split("<<")]), place)
        for call in re.finditer(r"\b(expects|throw_error|Error)\(", text):
            arguments = call_arguments(text, call.end())
            codes = [i for i, argument in enumerate(arguments) if argument.startswith("ErrorCode::")]
            if codes and len(arguments) > codes[0] + 1:
                place = f"{file.relative_to(source)}:{text.count(chr(10), 0, call.start()) + 1}"
                messages.setdefault(shape(arguments[codes[0] + 1 :]), place)
    return messages


def main():
    source = Path(sys.argv[1])
    thrown = thrown_messages(source)
    page = source / "docs/troubleshooting.md"
    entries = re.findall(r"^`(.+)`$", page.read_text(), re.MULTILINE) if page.exists() else []
    missing = [f"{place}: {message}" for message, place in thrown.items() if message not in entries]
    stale = [entry for entry in entries if entry not in thrown]
    for message in missing:
        print(f"no entry in docs/troubleshooting.md: {message}")
    for entry in stale:
        print(f"docs/troubleshooting.md has an entry for a message that nothing throws: {entry}")
    print(f"{len(thrown)} messages, {len(entries)} entries")
    return bool(missing or stale or not thrown)


if __name__ == "__main__":
    sys.exit(main())
