import { constants } from 'node:os'

/**
 * The errors that a system call may return, as its man page lists them (ERRORS in man-pages 6.03; unix(7) and ip(7) for what a protocol adds; a
 * seccomp filter's `ENOSYS` and `EPERM` where the call is newer than Linux 4.18). Left out is what only a wrong argument causes: `EFAULT`, `ENOTSOCK`, …,
 * and `EBADF` where only fdpass knows the number. A file system in user space can return `EINTR` for every call on a path. `SHORT` is no error: the call transfers one byte, as one that a signal interrupts.
 */
export const errorsOf: Readonly<Record<string, string>> = {
  socket: 'EACCES EMFILE ENFILE ENOBUFS ENOMEM',
  socketpair: 'EMFILE ENFILE EOPNOTSUPP',
  bind: 'EACCES EADDRINUSE EADDRNOTAVAIL EINTR EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EROFS',
  listen: 'EADDRINUSE EOPNOTSUPP EINVAL',
  accept4: 'EAGAIN ECONNABORTED EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO',
  connect: 'EACCES EAGAIN ECONNREFUSED EINTR ENOENT EPROTOTYPE ENOMEM EPERM',
  shutdown: 'EINVAL ENOTCONN',
  getsockopt: 'EBADF EINVAL ENOPROTOOPT',
  setsockopt: 'EBADF EINVAL ENOPROTOOPT ENOMEM',
  getsockname: 'EBADF ENOBUFS',
  getpeername: 'EBADF ENOBUFS ENOTCONN',
  sendmsg:
    'EACCES EAGAIN EBADF ECONNRESET EINTR EMSGSIZE ENOBUFS ENOMEM ENOTCONN EPIPE EPERM ETOOMANYREFS ECONNREFUSED SHORT',
  recvmsg: 'EAGAIN EBADF ECONNREFUSED ECONNRESET EINTR ENOMEM ENOTCONN SHORT',
  send: 'EAGAIN EINTR ENOBUFS ENOMEM EPIPE',
  recv: 'EAGAIN EINTR ENOMEM',
  read: 'EAGAIN EINTR EIO',
  write: 'EAGAIN EINTR EIO ENOSPC EPIPE',
  close: 'EINTR EIO ENOSPC EDQUOT',
  close_range: 'EINVAL EMFILE ENOMEM ENOSYS EPERM',
  dup2: 'EBADF EBUSY EINTR EMFILE',
  pipe2: 'EMFILE ENFILE',
  poll: 'EINTR ENOMEM',
  ioctl: 'EBADF ENOTTY',
  'fcntl(F_DUPFD_CLOEXEC)': 'EBADF EMFILE EINVAL',
  'fcntl(F_GETFD)': 'EBADF',
  'fcntl(F_SETFD)': 'EBADF',
  'fcntl(F_GETFL)': 'EBADF',
  'fcntl(F_SETFL)': 'EBADF EPERM',
  'fcntl(F_ADD_SEALS)': 'EBUSY EINVAL EPERM',
  'fcntl(F_GET_SEALS)': 'EINVAL',
  memfd_create: 'EMFILE ENFILE ENOMEM ENOSYS',
  ftruncate: 'EFBIG EINTR EINVAL EIO EPERM',
  stat: 'EACCES EBADF EINTR ENOENT ENOMEM',
  open: 'EACCES EDQUOT EINTR EISDIR EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EPERM EROFS ETXTBSY',
  openat: 'EACCES EDQUOT EINTR EISDIR EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOTDIR ENXIO EPERM EROFS ETXTBSY',
  openat2:
    'EACCES EAGAIN EDQUOT EINTR EISDIR ELOOP EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOSYS ENOTDIR ENXIO EPERM EROFS ETXTBSY EXDEV',
  opendir: 'EACCES EMFILE ENFILE ENOMEM ENOENT',
  readlink: 'EACCES EIO ENOENT ENOMEM',
  unlink: 'EACCES EBUSY EINTR EIO ENOENT ENOMEM EPERM EROFS',
  chmod: 'EACCES EINTR EIO ENOENT ENOMEM EPERM EROFS',
  fchmod: 'EINTR EIO EPERM EROFS',
  chdir: 'EACCES EIO ENOENT ENOMEM',
  flock: 'EINTR ENOLCK EWOULDBLOCK',
  fork: 'EAGAIN ENOMEM',
  execve: 'E2BIG EACCES EAGAIN EIO EMFILE ENFILE ENOENT ENOEXEC ENOMEM EPERM ETXTBSY',
  waitpid: 'ECHILD EINTR',
  pidfd_open: 'EINVAL EMFILE ENFILE ENODEV ENOMEM ESRCH ENOSYS EPERM',
  prctl: 'EINVAL EPERM',
  capget: 'EPERM',
  capset: 'EPERM',
  setgroups: 'ENOMEM EPERM',
  setresgid: 'EAGAIN EPERM',
  setresuid: 'EAGAIN EPERM',
  setrlimit: 'EINVAL EPERM',
  getrlimit: 'EINVAL EPERM',
  getpwnam_r: 'EINTR EIO EMFILE ENFILE ENOMEM',
  getgrnam_r: 'EINTR EIO EMFILE ENFILE ENOMEM',
  pthread_create: 'EAGAIN EPERM',
  // libuv's functions return the errors of epoll_ctl(2) and eventfd(2).
  uv_poll_init: 'ENOMEM ENOSPC EPERM EEXIST',
  uv_async_init: 'EMFILE ENFILE ENOMEM',
  epoll_create1: 'EMFILE ENFILE ENOMEM',
  epoll_ctl: 'ENOMEM ENOSPC EPERM',
  epoll_wait: 'EINTR',
  eventfd: 'EMFILE ENFILE ENODEV ENOMEM',
  timerfd_create: 'EMFILE ENFILE ENODEV ENOMEM',
  timerfd_settime: 'EINVAL',
  'read(eventfd)': 'EAGAIN EINTR',
  // Not EAGAIN: the counter is full then, and its waiter is woken anyway.
  'write(eventfd)': 'EINTR'
}

/** What is over after some time: it is met several times in a row, too. */
export const passing: ReadonlySet<string> = new Set(['EINTR', 'EAGAIN', 'ETOOMANYREFS', 'ECONNABORTED', 'SHORT'])

/** The error numbers that Node has no name for. */
const rest: Record<string, number> = {
  ENFILE: 23,
  EUSERS: 87,
  ESHUTDOWN: 108,
  ETOOMANYREFS: 109,
  EDQUOT: 122,
  ENOLCK: 37,
  ENOEXEC: 8
}

/** Returns the number of a system error; undefined for other codes. */
export function errnoOf(name: string): number | undefined {
  return (constants.errno as Record<string, number>)[name] ?? rest[name]
}
