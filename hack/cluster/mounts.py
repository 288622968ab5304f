"""What is mounted below a folder, and its end."""

from pathlib import Path

from .commands import run, succeeds


def below(folder: Path) -> list[Path]:
    """Mount points at or below `folder`, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(unescaped(line.split()[4])) for line in lines]
    return [point for point in reversed(points) if point == folder or folder in point.parents]


def unmount_below(folder: Path) -> None:
    for point in below(folder):
        if not succeeds(["umount", point]):
            run(["umount", "--lazy", point])


def unescaped(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for character in " \t\n\\":
        field = field.replace(f"\\{ord(character):03o}", character)
    return field
