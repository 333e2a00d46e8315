"""Many small files at once: each written as a part and given its name, without the interpreter between the calls.

`run` is for a thread. It holds the interpreter's lock only to take the tasks apart and to put the answers together: a
thread that asks for it after each of six system calls a file waits for the event loop each time. What is promised of a
part is what `partfile.PartFile` promises; this is its short form for content that is all there.
"""

from libc.errno cimport EEXIST, EINTR, EIO, errno
from libc.stdlib cimport calloc, free
from posix.stat cimport fstat, lstat, struct_stat
from posix.unistd cimport close, link, unlink, write as c_write

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC, O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY
    int c_open "open" (const char *path, int flags, int mode)

cdef extern from "<stdio.h>" nogil:
    int rename(const char *old, const char *new)

cdef extern from "<sys/syscall.h>" nogil:
    # By its number: not every C library has the function.
    """
    #include <fcntl.h>
    #include <unistd.h>
    static int noria_rename_to_free(const char *old, const char *new) {
    #ifdef SYS_renameat2
        return (int)syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 1u /* RENAME_NOREPLACE */);
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }
    """
    int noria_rename_to_free(const char *old, const char *new)

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
    const char *path
    const char *data
    Py_ssize_t size
    bint overwrite
    int error
    unsigned long long length
    unsigned long long inode
    double mtime


def run(list tasks, bint write=True, bint publish=True):
    """Do `tasks`, in order: tuples (part, path, data, overwrite).

    part, path: bytes. data: bytes to make the part of. overwrite: whether `path` may be replaced. write: make the
    parts; publish: give them their names. Returns a list of (error number or 0, size, inode, mtime); if nothing is
    written only the first has a meaning. Where a task fails, its part is gone. Raises TypeError, before anything is
    done, if a task is something else; MemoryError.
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
            if part is None or path is None or data is None or b"\0" in part or b"\0" in path:
                raise TypeError("a path or the data is missing, or is none")
            todo[i].part = <const char *>part
            todo[i].path = <const char *>path
            todo[i].data = <const char *>data
            todo[i].size = len(data)
            todo[i].overwrite = overwrite
        with nogil:
            for i in range(count):
                _do(&todo[i], write, publish)
        return [
            (todo[i].error, todo[i].length, todo[i].inode, todo[i].mtime) for i in range(count)
        ]
    finally:
        free(todo)


cdef void _do(Task *task, bint write, bint publish) noexcept nogil:
    cdef struct_stat found
    if write:
        # Nothing is written for a name that is taken, nor is the part of somebody else touched.
        if not task.overwrite and lstat(task.path, &found) == 0:
            task.error = EEXIST
            return
        task.error = _write(task)
        if task.error != 0:
            return
    if publish:
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
        n = c_write(fd, task.data + done, task.size - done)
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
    if noria_rename_to_free(task.part, task.path) == 0:
        return 0
    if errno == EEXIST:
        return EEXIST
    # Not for this file system. Unlike rename, link never replaces what has meanwhile come into being.
    if link(task.part, task.path) == 0:
        unlink(task.part)
        return 0
    if errno == EEXIST:
        return EEXIST
    # No hard links here (FAT, some network file systems).
    if lstat(task.path, &found) == 0:
        return EEXIST
    return 0 if rename(task.part, task.path) == 0 else errno
