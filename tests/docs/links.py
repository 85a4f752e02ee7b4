"""Every relative link of the Markdown pages leads to a file, every #anchor to a heading, and every file or folder that a page
names (`src/plan/` or the end of a path, `detail/params.hpp`) exists.

usage: links.py SOURCE_FOLDER
"""

import re
import sys
from pathlib import Path

SKIPPED = {"build", ".dev", ".git"}
NAMED_FILE = re.compile(r"`((?!\.|build/)[\w.-]*/[\w./-]*?(?:/|\.(?:hpp|cpp|cu|hip|py|md|txt|cmake|sh|sed|json)))`")


def anchor(heading):
    """The anchor that forges make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def main():
    source = Path(sys.argv[1])
    entries = [entry for entry in source.iterdir() if entry.name not in SKIPPED]
    pages = [page for entry in entries for page in (entry, *entry.rglob("*.md")) if page.suffix == ".md"]
    paths = {f"/{path.relative_to(source)}" for entry in entries for path in (entry, *entry.rglob("*"))}
    links = names = broken = 0
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            links += 1
            path, _, fragment = link.partition("#")
            target = (page.parent / path) if path else page
            headings = re.findall(r"^#+ (.*)", prose(target), re.MULTILINE) if target.suffix == ".md" and target.exists() else []
            if not target.exists() or (fragment and fragment not in map(anchor, headings)):
                broken += 1
                print(f"{page.relative_to(source)}: {link} leads nowhere")
        for name in NAMED_FILE.findall(prose(page)):
            names += 1
            if not any(path.endswith(f"/{name.rstrip('/')}") for path in paths):
                broken += 1
                print(f"{page.relative_to(source)}: there is no {name}")
    print(f"{links} links and {names} names of files in {len(pages)} pages")
    return bool(broken or not links or not names)


if __name__ == "__main__":
    sys.exit(main())
