"""Files that never block the loop: `noria.open`, and functions on paths and descriptors.

Names and results are those of os, pathlib, shutil and aiofiles; all are coroutines. Errors are OSError and its
kinds, with the path. A cancelled operation may have happened or not. docs/files.md has more.
"""

from noria.files.binary import BinaryFile as BinaryFile
from noria.files.opening import Opening as Opening, open as open
from noria.files.text import TextFile as TextFile

__all__ = ["BinaryFile", "Opening", "TextFile", "open"]
