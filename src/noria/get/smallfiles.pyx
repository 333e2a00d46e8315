"""Many small files: each written as a part and given its name, in threads without the interpreter.

The threads never ask for its lock: they take tasks from one list and put them into another, and a descriptor tells the
loop of it. A thread that asks for the lock after each of five system calls a file would wait for the loop each time.
What is promised of a part is what `partfile.PartFile` promises; this is its short form for content that is all there.
"""

import os
import threading

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
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


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)
    int eventfd_read(int fd, unsigned long *value)
    int eventfd_write(int fd, unsigned long value)


cdef extern from "<sys/vfs.h>" nogil:
    cdef struct statfs:
        long f_type
    int c_statfs "statfs" (const char *path, statfs *found)


def file_system(bytes path):
    """The number of the kind of file system that `path` is on (statfs(2)); 0 if that is not to be known."""
    cdef statfs found
    if c_statfs(path, &found) != 0:
        return 0
    return found.f_type & 0xFFFFFFFF


cdef enum:
    C_WRITE = 1
    C_PUBLISH = 2
    C_REMOVE = 4


cdef struct Task:
    const char *part
    const char *path
    const char *data
    Py_ssize_t size
    bint overwrite
    int steps
    Task *next
    PyObject *owner       # what keeps the bytes alive and is given back with the answer
    int error
    unsigned long long length
    unsigned long long inode
    double mtime


cdef void _do(Task *task) noexcept nogil:
    cdef struct_stat found
    if task.steps & C_WRITE:
        # Nothing is written for a name that is taken, nor is the part of somebody else touched.
        if not task.overwrite and lstat(task.path, &found) == 0:
            task.error = EEXIST
            return
        task.error = _write(task)
        if task.error != 0:
            return
    if task.steps & C_PUBLISH:
        task.error = _publish(task)
        if task.error != 0:
            unlink(task.part)
    if task.steps & C_REMOVE:
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


WRITE, PUBLISH, REMOVE = C_WRITE, C_PUBLISH, C_REMOVE

cdef enum:
    MOST_THREADS = 4      # for disks that take long
    WORTH_A_THREAD = 32   # tasks that wait


cdef class Writer:
    """Makes files in threads of its own, until `close`. `fileno` is readable when `take` has something. Raises OSError
    if there is no descriptor for that, RuntimeError if there is no thread.
    """

    cdef pthread_mutex_t mutex
    cdef pthread_cond_t work
    # Gathered here and not yet shared. All other fields but `fd` are the mutex's.
    cdef Task *fresh
    cdef Task *fresh_last
    cdef Task *todo
    cdef Task *todo_last
    cdef Task *done
    cdef Task *done_last
    cdef int waiting      # tasks in `todo`
    cdef int idle         # threads that wait for work
    cdef int gathered
    cdef bint closed
    cdef int fd
    cdef int threads

    def __cinit__(self):
        self.fd = -1
        pthread_mutex_init(&self.mutex, NULL)
        pthread_cond_init(&self.work, NULL)

    def __init__(self):
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.start_thread()

    def __dealloc__(self):
        # Every thread has a reference, so none is left.
        if self.fd >= 0:
            close(self.fd)
        _forget(self.fresh)
        _forget(self.todo)
        _forget(self.done)
        pthread_cond_destroy(&self.work)
        pthread_mutex_destroy(&self.mutex)

    def fileno(self):
        """The descriptor."""
        return self.fd

    def add(self, bytes part not None, bytes path not None, bytes data not None, bint overwrite, int steps, receipt):
        """After the next `start`, do some `steps` to the file `path`: WRITE its `part` of `data`, PUBLISH it by its
        name, which must be free unless `overwrite`, or REMOVE the part. If one fails, the part is gone. `take` gives
        `receipt` back. Raises TypeError for what are no bytes, ValueError for a path with a zero byte, MemoryError.
        """
        cdef Task *task
        if b"\0" in part or b"\0" in path:
            raise ValueError("a path with a zero byte in it")
        task = <Task *>calloc(1, sizeof(Task))
        if task is NULL:
            raise MemoryError
        owner = (part, path, data, receipt)
        task.part = <const char *>part
        task.path = <const char *>path
        task.data = <const char *>data
        task.size = len(data)
        task.overwrite = overwrite
        task.steps = steps
        Py_INCREF(owner)
        task.owner = <PyObject *>owner
        if self.fresh is NULL:
            self.fresh = task
        else:
            self.fresh_last.next = task
        self.fresh_last = task
        self.gathered += 1

    def start(self):
        """Let the threads have what was added."""
        cdef bint more
        if self.fresh is NULL:
            return
        pthread_mutex_lock(&self.mutex)
        if self.todo is NULL:
            self.todo = self.fresh
        else:
            self.todo_last.next = self.fresh
        self.todo_last = self.fresh_last
        self.waiting += self.gathered
        more = not self.idle and self.waiting >= WORTH_A_THREAD
        if self.idle:
            pthread_cond_signal(&self.work)
        pthread_mutex_unlock(&self.mutex)
        self.fresh = self.fresh_last = NULL
        self.gathered = 0
        if more and self.threads < MOST_THREADS:
            try:
                self.start_thread()
            except RuntimeError:
                pass  # there is one

    cdef int start_thread(self) except -1:
        threading.Thread(target=self.run, name="noria-get-writer", daemon=True).start()
        self.threads += 1
        return 0

    def take(self):
        """What has been done since the last call: a list of (receipt, path, steps, error number or 0, size, inode,
        mtime), of which the last three are of files that were written.
        """
        cdef Task *task
        cdef Task *next
        cdef unsigned long value
        cdef list results = []
        eventfd_read(self.fd, &value)  # first, so that what comes from now on is told of again
        pthread_mutex_lock(&self.mutex)
        task = self.done
        self.done = self.done_last = NULL
        pthread_mutex_unlock(&self.mutex)
        while task is not NULL:
            next = task.next
            owner = <tuple>task.owner
            results.append(
                (owner[3], owner[1], task.steps, task.error, task.length, task.inode, task.mtime)
            )
            Py_DECREF(owner)
            free(task)
            task = next
        return results

    def close(self):
        """Let the threads end once they have done what they have."""
        pthread_mutex_lock(&self.mutex)
        self.closed = True
        pthread_cond_broadcast(&self.work)
        pthread_mutex_unlock(&self.mutex)

    def run(self):
        """The threads' loop."""
        cdef Task *task
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while True:
                while self.todo is NULL and not self.closed:
                    self.idle += 1
                    pthread_cond_wait(&self.work, &self.mutex)
                    self.idle -= 1
                task = self.todo
                if task is NULL:
                    break
                self.todo = task.next
                self.waiting -= 1
                pthread_mutex_unlock(&self.mutex)
                task.next = NULL
                _do(task)
                pthread_mutex_lock(&self.mutex)
                if self.done is NULL:
                    self.done = task
                    eventfd_write(self.fd, 1)
                else:
                    self.done_last.next = task
                self.done_last = task
            pthread_mutex_unlock(&self.mutex)


cdef void _forget(Task *task):
    """Free `task` and those after it."""
    cdef Task *next
    while task is not NULL:
        next = task.next
        Py_DECREF(<object>task.owner)
        free(task)
        task = next
