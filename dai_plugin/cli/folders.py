"""Image files below folders: found at any depth, each once, with classes by folder."""

import os
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path, PurePath

from torchvision.datasets.folder import IMG_EXTENSIONS

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test"))

Labels = tuple[list[int], list[str]]
"""The class of each image, and the names of the classes."""


class Finder:
    """Finds the image files below one folder after another, each of them once.

    Symbolic links are followed, but for those to a folder that they lie in. Names that
    begin with a dot (and macOS's `__MACOSX`) are left out.

    Attributes:
        again: files and folders that were come upon another time.
        others: files that are no images, by their suffix.
    """

    def __init__(self) -> None:
        self.again = 0
        self.others: Counter[str] = Counter()
        self._taken: set[str] = set()

    def below(self, folder: Path) -> list[PurePath]:
        """Paths of the image files, relative to the folder, sorted.

        Raises:
            FileNotFoundError: there is none.
        """
        before = self.again
        found = self._walk(folder)
        # A file itself comes before links to it.
        files = [path for path, _ in sorted(found, key=lambda each: each[1])]
        taken = [path for path in files if self.take(path)]
        if not taken and self.again == before:
            raise FileNotFoundError(
                f"no images below the data folder {folder}: it holds "
                f"{self.others_by_kind() or 'no files'}; images end in "
                f"{', '.join(IMG_EXTENSIONS)}"
            )
        return sorted(PurePath(path).relative_to(folder) for path in taken)

    def take(self, path: str) -> bool:
        """Whether a file or folder is a new one, which from now on it is not."""
        real = os.path.realpath(path)
        new = real not in self._taken
        self._taken.add(real)
        self.again += not new
        return new

    def others_by_kind(self) -> str:
        """How many of which suffix, the most first."""
        return ", ".join(f"{n} of {s!r}" for s, n in self.others.most_common(5))

    def _walk(self, folder: Path) -> list[tuple[str, bool]]:
        """Image files, and whether each is a link."""
        found: list[tuple[str, bool]] = []
        folders, links = deque([str(folder)]), deque[str]()
        while folders or links:
            place = folders.popleft() if folders else links.popleft()
            if not self.take(place):
                continue
            for entry in os.scandir(place):
                if _hidden(entry.name):
                    continue
                if os.path.isdir(entry.path):
                    if not entry.is_symlink():
                        folders.append(entry.path)
                    elif not _loop(entry.path):
                        links.append(entry.path)
                elif entry.name.lower().endswith(IMG_EXTENSIONS):
                    found.append((entry.path, entry.is_symlink()))
                else:
                    self.others[os.path.splitext(entry.name)[1]] += 1
        return found


def labels_of(folder: Path, files: Sequence[PurePath]) -> Labels | None:
    """Classes by folder, where all files lie in CLASS or in SPLIT/CLASS.

    As in torchvision's `ImageFolder`, the classes are the folders in the order of their
    names, those without an image among them. SPLIT is train, val, test or the like.

    Returns:
        None where the files lie otherwise, or in one class alone.
    """
    depths = {len(file.parts) for file in files}
    splits = {file.parts[0] for file in files} <= _SPLITS
    if depths not in ({2}, {3}) or splits != (depths == {3}):
        return None
    level = 1 if splits else 0
    parents = {folder.joinpath(*file.parts[:level]) for file in files}
    names = {name for parent in parents for name in _folders(parent)}
    classes = sorted(names)
    if len({file.parts[level] for file in files}) < 2:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[file.parts[level]] for file in files], classes


def _folders(parent: Path) -> list[str]:
    return [p.name for p in parent.iterdir() if p.is_dir() and not _hidden(p.name)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _loop(link: str) -> bool:
    """Whether a link to a folder lies in that folder, at any depth."""
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, place]) == target
