"""The site of the documentation is built without a warning, and its links lead somewhere.

usage: site.py SOURCE_FOLDER DOXYGEN VERSION FOLDER_TO_BUILD_IN
"""

import html.parser
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src", "data") and value:
                self.links.add(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def main():
    source, doxygen, version, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ESPALIER_VERSION": version, "ESPALIER_DOCS_DIR": str(folder)}
    built = subprocess.run([doxygen, "docs/Doxyfile"], cwd=source, env=environment, capture_output=True, text=True)
    print(built.stdout + built.stderr, end="")
    if built.returncode:
        return 1
    pages = {page.name: Page(page.read_text()) for page in (folder / "html").glob("*.html")}
    links = broken = 0
    for name, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            links += 1
            path, fragment = urllib.parse.unquote(parts.path) or name, urllib.parse.unquote(parts.fragment)
            target = pages.get(path)
            if not (folder / "html" / path).exists() or (target and fragment and fragment not in target.anchors):
                broken += 1
                print(f"{name}: {link} leads nowhere")
    print(f"{links} links in {len(pages)} pages of {folder / 'html'}")
    return bool(broken or not links)


if __name__ == "__main__":
    sys.exit(main())
