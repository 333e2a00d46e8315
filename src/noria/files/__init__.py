"""Files that never block the loop: `noria.open`, and functions on paths and descriptors.

Names and results are those of os, pathlib, shutil and aiofiles; all are to be awaited. Errors are OSError and its
kinds, with the path. A cancelled operation may have happened or not. Works on every asyncio loop, on Linux. More:
docs/files.md.
"""

from noria.files.binary import BinaryFile as BinaryFile
from noria.files.opening import Opening as Opening, open as open
from noria.files.paths import (
    copyfile as copyfile,
    exists as exists,
    fdatasync as fdatasync,
    fsync as fsync,
    isdir as isdir,
    isfile as isfile,
    link as link,
    listdir as listdir,
    lstat as lstat,
    makedirs as makedirs,
    mkdir as mkdir,
    pread as pread,
    pwrite as pwrite,
    read_bytes as read_bytes,
    read_text as read_text,
    readinto as readinto,
    readlink as readlink,
    remove as remove,
    rename as rename,
    replace as replace,
    rmdir as rmdir,
    scandir as scandir,
    stat as stat,
    symlink as symlink,
    truncate as truncate,
    unlink as unlink,
    write_bytes as write_bytes,
    write_text as write_text,
)
from noria.files.text import TextFile as TextFile
