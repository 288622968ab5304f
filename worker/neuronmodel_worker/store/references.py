"""References: who needs a set, as files that any tool on the volume can read and remove.

    refs/<key>/<namespace>.<name>.<uid>     contains the kind

`refs/<key>` stays after the last reference was removed: its modification time is the time of that.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from neuronmodel_worker.io.disk import sync, writing_to
from neuronmodel_worker.store.atomic_files import HIDDEN, make_directory, matching, write_whole
from neuronmodel_worker.store.keys import KINDS, ArtifactKind

REFERENCES = "refs"
RETIRED = f"{HIDDEN}gone-"


class References:
    """The references on the volume at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / REFERENCES

    def refer(self, kind: ArtifactKind, key: str, owner: str) -> None:
        """Note that `owner` (`namespace.name.uid`) needs the set. References that a deleted model of the same name
        left are taken over."""
        with writing_to(self.root):
            while True:
                with suppress(FileNotFoundError):  # another process removed the empty folder
                    make_directory(self.directory / key)
                    write_whole(self.directory / key / owner, kind.encode())
                    break
            self._remove(self._predecessors(owner))

    def _predecessors(self, owner: str) -> list[Path]:
        name = owner.rpartition(".")[0]
        return [path for path in self._all("*") if path.name.rpartition(".")[0] == name and path.name != owner]

    def unrefer(self, owner: str, keep: Iterable[str] = ()) -> list[str]:
        """Remove the owner's references, except those to the keys in `keep`; `owner` may hold `*`, for any UID.

        Returns the keys that the owner no longer refers to.
        """
        kept = set(keep)
        dropped = [path for path in self._all(owner) if path.parent.name not in kept]
        with writing_to(self.root):
            self._remove(dropped)
        return sorted({path.parent.name for path in dropped})

    def retire(self, owner: str) -> list[str]:
        """As `unrefer`, but a key is returned at every call until `forget` is called with it: whoever was stopped
        between the two starts again with the same keys."""
        with writing_to(self.root):
            for path in self._all(owner):
                with suppress(FileNotFoundError):
                    path.rename(path.with_name(f"{RETIRED}{path.name}"))
                    sync(path.parent)
        return sorted({path.parent.name for path in matching(self.directory, f"*/{RETIRED}{owner}")})

    def _all(self, owner: str) -> list[Path]:
        return [path for path in matching(self.directory, f"*/{owner}") if not path.name.startswith(HIDDEN)]

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                path.unlink()
                sync(path.parent)

    def owners(self, key: str) -> list[str]:
        if not key:
            return []
        try:
            return sorted(each.name for each in (self.directory / key).iterdir() if not each.name.startswith(HIDDEN))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def keys_of(self, owner: str) -> list[str]:
        """The keys that an owner refers to, the latest first; `owner` may hold `*`."""
        found = []
        for path in self._all(owner):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.parent.name))
        return [key for _, key in sorted(found, reverse=True)]

    def changed(self, key: str) -> float | None:
        """When a reference to a key was last added or removed, in seconds since the epoch; None if there never was
        one."""
        try:
            return (self.directory / key).stat().st_mtime
        except OSError:
            return None

    def forget(self, key: str) -> None:
        """Remove the retired references of a key; and the key, where nobody refers to it and its set is gone."""
        directory = self.directory / key
        for path in matching(directory, f"{RETIRED}*"):
            path.unlink(missing_ok=True)
        if not any((self.root / kind / key).exists() for kind in KINDS):
            with suppress(OSError):  # another process refers to it, or is about to
                directory.rmdir()
