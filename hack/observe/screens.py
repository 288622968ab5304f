"""`python -m hack.observe.screens NAMESPACE NAME START`: pictures of what `kubectl nm` shows of a NeuronModel and of
one of its starts, by its number."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURES: Final = Path(__file__).resolve().parents[2] / "docs" / "pictures"
COLUMNS: Final = 118
LINES: Final = 60


def main(arguments: Sequence[str]) -> int:
    namespace, name, start = arguments
    PICTURES.mkdir(parents=True, exist_ok=True)
    for command in (("status", name), ("starts", name, start)):
        words = ["kubectl", "nm", *command]
        shown = on_a_terminal([sys.executable, "-m", "neuronmodel_kubectl", *command, "--namespace", namespace])
        file = PICTURES / f"{command[0]}.svg"
        file.write_text(picture(f"$ {' '.join(words)}\n{shown}", " ".join(words)), encoding="utf-8")
        print(f"wrote {file}")
    return 0


def on_a_terminal(command: Sequence[str]) -> str:
    """What a command prints on a terminal of COLUMNS, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    if code := child.wait():
        raise SystemExit(f"`{' '.join(command)}` ended with code {code}: {b''.join(parts).decode()}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def picture(text: str, title: str) -> str:
    """As SVG, in whatever monospaced font the reader has: nothing is fetched."""
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(text), soft_wrap=False)
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title=title, code_format=without_fonts, unique_id=title.replace(" ", "-"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
