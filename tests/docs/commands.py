"""Every command that a page shows can be given: those of the tool that make nothing but a plan are run, and of all others the
programs, subcommands, options, presets and files exist. Tree files are planned. And a page with code in another language is
known to a test that compares it with what is compiled or run.

usage: commands.py SOURCE_FOLDER CMAKE_CACHE TOOL
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE, CACHE, TOOL = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
SKIPPED = {"build", ".dev", ".git"}
FOREIGN_OPTION = re.compile(r"(CMAKE|Kokkos)_\w+|BUILD_SHARED_LIBS")
# Programs of others, whose arguments are not looked at.
FOREIGN = {"cp", "git", "spack", "podman", "docker", "pip", "apt-get", "export", "cd", "g++", "ctest"}
RUN = {"plan", "info"}  # quick, and they write at most what --svg names

presets = {preset["name"] for preset in json.loads((SOURCE / "CMakePresets.json").read_text())["configurePresets"]}
options = set(re.findall(r"^(\w+):", CACHE.read_text(), re.MULTILINE))
dev_commands = set(re.findall(r"^  (\w+)(?: [\[A-Z].*?)?  +\S", re.search(r"cat <<'EOF'\nusage:.*?^EOF", (SOURCE / "dev").read_text(), re.M | re.S)[0], re.M))
test_files = [file for folder in ("tests", "python/tests") for file in (SOURCE / folder).rglob("*") if file.name == "CMakeLists.txt"]
known_to_tests = "".join(file.read_text() for file in test_files)
helps = {}


def help_of(command):
    key = " ".join(command)
    if key not in helps:
        helps[key] = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    return helps[key]


def check_tool(words):
    if words[0].startswith("-"):
        return None if words[0] in help_of([TOOL]) else f"espalier has no option {words[0]}"
    subcommand, arguments = words[0], words[1:]
    if subcommand in RUN:
        with tempfile.TemporaryDirectory() as folder:
            ran = subprocess.run([TOOL, *words], cwd=folder, capture_output=True, text=True, timeout=60)
        return f"exit code {ran.returncode}: {ran.stderr.strip()}" if ran.returncode else None
    text = help_of([TOOL, subcommand])
    for argument in arguments:
        if argument.startswith("--") and not re.search(rf"(?<![\w-]){re.escape(argument)}(?![\w-])", text):
            return f"espalier {subcommand} has no option {argument}"
    return None


def check_cmake(words):
    for i, word in enumerate(words):
        option = re.match(r"-D(\w+)(?::\w+)?=", word)
        if option and option[1] not in options and not FOREIGN_OPTION.fullmatch(option[1]):
            return f"there is no option {option[1]}"
        if word == "--preset" and words[i + 1] not in presets:
            return f"there is no preset {words[i + 1]}"
    return None


def check(words):
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:2] == ["./dev", "run"]:
        return check(words[2:])
    program = words[0]
    if program.startswith("$HOME/"):  # a program of the outside project
        return None if Path(program).name in known_to_tests else f"no test builds {program}"
    if program == "espalier":
        return check_tool(words[1:])
    if program == "cmake":
        return check_cmake(words)
    if program == "./dev":
        return None if words[1] in dev_commands else f"./dev has no command {words[1]}"
    if program.startswith("python"):
        return None if (SOURCE / words[1]).exists() else f"there is no {words[1]}"
    if program in FOREIGN or program.startswith("./") and (SOURCE / program).exists():
        return None
    built = Path(TOOL).parent / program  # another program of the build, or a source of one where it is not built
    if built.exists() or re.search(rf"\b{re.escape(program)}\b", "".join(f.read_text() for f in SOURCE.glob("*/CMakeLists.txt"))):
        return None
    return f"there is no program {program}"


def main():
    commands = failures = 0
    entries = [entry for entry in SOURCE.iterdir() if entry.name not in SKIPPED]
    pages = [page for entry in entries for page in (entry, *entry.rglob("*.md")) if page.suffix == ".md"]
    for page in pages:
        name = str(page.relative_to(SOURCE))
        for language, code in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if language in ("cpp", "python", "cmake") and name not in known_to_tests:
                failures += 1
                print(f"{name} has {language} code that no snippet test knows")
            if language == "json":  # a tree file
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "tree.json").write_text(code)
                    ran = subprocess.run([TOOL, "plan", "tree.json"], cwd=folder, capture_output=True, text=True)
                if ran.returncode:
                    failures += 1
                    print(f"{name} has a tree file that the tool refuses: {ran.stderr.strip()}")
            if language != "sh":
                continue
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if not words:
                    continue
                commands += 1
                problem = check(words)
                if problem:
                    failures += 1
                    print(f"{name}: {line}\n  {problem}")
    print(f"{commands} commands in {len(pages)} pages")
    return bool(failures or not commands)


if __name__ == "__main__":
    sys.exit(main())
