"""Many small files at once: each written as a part and given its name, without the interpreter between the calls.

`run` is for a thread. It holds the interpreter's lock only to take the tasks apart and to put the answers together: a
thread that asks for it after each of six system calls a file waits for the event loop each time. What is promised of a
part is what `partfile.PartFile` promises; this is its short form for content that is all there.
"""

from libc.errno cimport EEXIST, EINTR, EIO, errno
from libc.stdlib cimport calloc, free
from posix.stat cimport fstat, lstat, struct_stat
from posix.unistd cimport close, link, unlink, write

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY
    int c_open "open" (const char *path, int flags, int mode)

cdef extern from "<stdio.h>" nogil:
    int rename(const char *old, const char *new)

cdef extern from "<sys/stat.h>" nogil:
    # The nanoseconds, which posix.stat leaves out.
    """
    static double noria_mtime(const struct stat *found) {
        return (double)found->st_mtim.tv_sec + 1e-9 * (double)found->st_mtim.tv_nsec;
    }
    """
    double noria_mtime(struct_stat *found)


cdef struct Task:
    const char *part
    const char *path      # or NULL: no name yet
    const char *data      # or NULL: written before
    Py_ssize_t size
    bint overwrite
    int error
    unsigned long long length
    unsigned long long inode
    double mtime


def run(list tasks):
    """Do `tasks`, in order: tuples (part, path, data, overwrite).

    part, path: bytes, path None to leave the file without its name. data: bytes to make the part of, None if `part` is
    finished. overwrite: whether `path` may be replaced. Returns a list of (error number or 0, size, inode, mtime); of a
    task without data only the first. Where a task fails, its part is gone. Raises TypeError, before anything is done,
    if a task is something else; MemoryError.
    """
    cdef:
        Py_ssize_t count = len(tasks)
        Py_ssize_t i
        bytes part, path, data
        Task *todo
    if not count:
        return []
    tasks = list(tasks)  # what the pointers point into lives as long as this
    todo = <Task *>calloc(count, sizeof(Task))
    if todo is NULL:
        raise MemoryError
    try:
        for i in range(count):
            part, path, data, overwrite = tasks[i]
            if part is None or b"\0" in part or (path is not None and b"\0" in path):
                raise TypeError("a path is missing or not one")
            todo[i].part = <const char *>part
            if path is not None:
                todo[i].path = <const char *>path
            if data is not None:
                todo[i].data = <const char *>data
                todo[i].size = len(data)
            todo[i].overwrite = overwrite
        with nogil:
            for i in range(count):
                _do(&todo[i])
        return [
            (todo[i].error, todo[i].length, todo[i].inode, todo[i].mtime) for i in range(count)
        ]
    finally:
        free(todo)


cdef void _do(Task *task) noexcept nogil:
    cdef struct_stat found
    if task.data is not NULL:
        # Nothing is written for a name that is taken, nor is the part of somebody else touched.
        if not task.overwrite and task.path is not NULL and lstat(task.path, &found) == 0:
            task.error = EEXIST
            return
        task.error = _write(task)
        if task.error != 0:
            return
    if task.path is not NULL:
        task.error = _publish(task)
        if task.error != 0:
            unlink(task.part)


cdef int _write(Task *task) noexcept nogil:
    """Make the part; the error number."""
    cdef struct_stat found
    cdef Py_ssize_t done = 0
    cdef Py_ssize_t n
    cdef int error = 0
    cdef int fd
    while True:
        fd = c_open(task.part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0o666)
        if fd >= 0:
            break
        if errno != EINTR:
            return errno
    while done < task.size:
        n = write(fd, task.data + done, task.size - done)
        if n > 0:
            done += n
        elif n == 0:
            error = EIO
            break
        elif errno != EINTR:
            error = errno
            break
    if error == 0:
        if fstat(fd, &found) == 0:
            task.length = found.st_size
            task.inode = found.st_ino
            task.mtime = noria_mtime(&found)
        else:
            error = errno
    # Network file systems report a full disk here. After EINTR, Linux has closed it nevertheless (close(2)).
    if close(fd) != 0 and error == 0 and errno != EINTR:
        error = errno
    if error != 0:
        unlink(task.part)
    return error


cdef int _publish(Task *task) noexcept nogil:
    """Give the part its name; the error number."""
    cdef struct_stat found
    if task.overwrite:
        return 0 if rename(task.part, task.path) == 0 else errno
    # Unlike rename, link never replaces what has meanwhile come into being.
    if link(task.part, task.path) == 0:
        unlink(task.part)
        return 0
    if errno == EEXIST:
        return EEXIST
    # No hard links here (FAT, some network file systems).
    if lstat(task.path, &found) == 0:
        return EEXIST
    return 0 if rename(task.part, task.path) == 0 else errno
