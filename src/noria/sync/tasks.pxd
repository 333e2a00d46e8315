from noria.core.loop cimport CoreLoop
from noria.core.tasks cimport Task
from noria.core.wheel cimport Ready

cdef object running_task(object loop)
cdef Task native_task(object loop, object coro, object name, object context)
cdef object to_future(object arg, object loop)
cdef object loop_of(object future)
cdef bint cancel(object future, object message) except -1
cdef int watch(object future, object loop, Ready watcher, object callback) except -1
cdef int unwatch(object future, object loop, Ready watcher, object callback) except -1
