/* Fails system calls of fdpass, and of nothing else in the process: preloaded (LD_PRELOAD), it stands before the C library's functions, and
 * looks at who calls. What the binary does without the C library (epoll, by the crate rustix) is trapped by a seccomp filter that looks at the
 * instruction's address.
 *
 * The environment:
 *   FAULT_FILE   a file with the table below, which the processes of a scenario share: they count into it, and take from it what to fail
 *
 * The driver is __test__/faults/driver.ts. It knows the layout, and the names of the calls by their order in the file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* The calls that are counted. */
enum call {
#define CALL(id, name) id,
#include "calls.h"
#undef CALL
  CALLS
};

static const char *const names[CALLS] = {
#define CALL(id, name) name,
#include "calls.h"
#undef CALL
};

#define NAME 32
#define MOST_CALLS 128

/* What the driver writes, and reads afterwards. */
struct table {
  uint32_t call;     /* which to fail, by its place; MOST_CALLS for none */
  uint32_t nth;      /* the first that fails, from 1 on */
  uint32_t times;    /* and how many */
  int32_t error;     /* with which error; 0: it transfers one byte, as a call that a signal interrupts */
  uint32_t injected; /* how many have failed */
  uint32_t loaded;   /* in how many processes fdpass was found */
  uint32_t trapping; /* in how many of them its own system calls are trapped */
  uint32_t pid;      /* the process of the first that failed */
  uint64_t place;    /* where it was made, from the binary's beginning */
  uint32_t descriptor;
  uint32_t calls; /* how many names follow the counts */
  uint32_t counts[MOST_CALLS];
  char names[MOST_CALLS][NAME];
};

static struct table unused;
static struct table *table = &unused;

/* Where fdpass's binary is. */
static uintptr_t begin, end;

#define CALLER ((uintptr_t)__builtin_return_address(0))
#define OURS(caller) (__builtin_expect((caller) - begin < end - begin, 0))

/* Counts a call; whether it is to fail. */
static int fails(enum call call, uintptr_t caller, int descriptor) {
  uint32_t count = __atomic_add_fetch(&table->counts[call], 1, __ATOMIC_RELAXED);
  if (table->call != (uint32_t)call || count - table->nth >= table->times) return 0;
  if (__atomic_fetch_add(&table->injected, 1, __ATOMIC_RELAXED) == 0) {
    table->pid = (uint32_t)getpid();
    table->place = caller - begin;
    table->descriptor = (uint32_t)descriptor;
  }
  return 1;
}

/* The functions of the C library, looked up before there are threads: fork(2)'s child may not. */
#define REAL(type, name, parameters) static type(*real_##name) parameters;
#include "calls.h"
#undef REAL

/* dlsym(3) is one of those that are replaced. */
static void *find(const char *name) { return real_dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void open_table(void) {
  real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!real_dlsym) real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  if (!real_dlsym) real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.17");
#define REAL(type, name, parameters) if (!real_##name) real_##name = (type(*) parameters)find(#name);
#include "calls.h"
#undef REAL
  const char *path = getenv("FAULT_FILE");
  int file = path ? real_open(path, O_RDWR | O_CLOEXEC, 0) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  real_close(file);
  if (mapped == MAP_FAILED) return;
  table = mapped;
  for (int i = 0; i < CALLS; i++) strncpy(table->names[i], names[i], NAME - 1);
  table->calls = CALLS;
}

/* System calls that are made without the C library. */

static long trapped_call(long number) {
  switch (number) {
  case SYS_epoll_create1: return EPOLL_CREATE1;
  case SYS_epoll_ctl: return EPOLL_CTL;
#ifdef SYS_epoll_wait
  case SYS_epoll_wait: return EPOLL_WAIT;
#endif
  case SYS_epoll_pwait: return EPOLL_WAIT;
  case SYS_epoll_pwait2: return EPOLL_WAIT;
  case SYS_eventfd2: return EVENTFD;
  case SYS_timerfd_create: return TIMERFD_CREATE;
  case SYS_timerfd_settime: return TIMERFD_SETTIME;
  case SYS_read: return RAW_READ;
  case SYS_write: return RAW_WRITE;
  default: return CALLS;
  }
}

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64

static long make(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static void on_trap(int signal, siginfo_t *info, void *context) {
  (void)signal;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  long call = trapped_call(info->si_syscall);
  if (call < CALLS && fails((enum call)call, (uintptr_t)registers[REG_RIP], (int)registers[REG_RDI])) {
    registers[REG_RAX] = -table->error;
    return;
  }
  registers[REG_RAX] = make(info->si_syscall, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                            registers[REG_R10], registers[REG_R8], registers[REG_R9]);
}

/* Has the calls trapped that are made from within the binary. */
static int trap(void) {
  if (begin >> 32 != end >> 32) return 0; /* the filter compares halves */
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
  if (sigaction(SIGSYS, &action, NULL) != 0) return 0;
#define LOW offsetof(struct seccomp_data, instruction_pointer)
  static const uint16_t trapped[] = {SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait,
                                     SYS_epoll_pwait2, SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime,
                                     SYS_read, SYS_write};
  enum { TRAPPED = sizeof trapped / sizeof *trapped, NUMBERS = 8, ALLOW = NUMBERS + TRAPPED };
#define ELSE_ALLOW(at) ((uint8_t)(ALLOW - (at) - 1))
  struct sock_filter program[ALLOW + 2] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, ELSE_ALLOW(1)),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, LOW + 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(begin >> 32), 0, ELSE_ALLOW(3)),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, LOW),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)end, ELSE_ALLOW(5), 0),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)begin, 0, ELSE_ALLOW(6)),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
  };
  for (int i = 0; i < TRAPPED; i++)
    program[NUMBERS + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, trapped[i], (uint8_t)(TRAPPED - i), 0);
  program[ALLOW] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  program[ALLOW + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
  struct sock_fprog filters = {.len = sizeof program / sizeof *program, .filter = program};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filters) == 0) return 1;
  /* Without root's rights only a process that gains none may have a filter. */
  if (real_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 0;
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filters) == 0;
}
#else
static int trap(void) { return 0; }
#endif

/* Finding the binary. */

static int look(struct dl_phdr_info *info, size_t size, void *path) {
  (void)size;
  if (strcmp(info->dlpi_name, path) != 0) return 0;
  begin = UINTPTR_MAX;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, last = first + info->dlpi_phdr[i].p_memsz;
    if (first < begin) begin = first;
    if (last > end) end = last;
  }
  return 1;
}

void *dlopen(const char *path, int flags) {
  void *handle = real_dlopen(path, flags);
  if (handle && path && begin == 0 && strstr(path, "fdpass") && strstr(path, ".node")) {
    dl_iterate_phdr(look, (void *)path);
    if (begin != 0) {
      __atomic_add_fetch(&table->loaded, 1, __ATOMIC_RELAXED);
      if (trap()) __atomic_add_fetch(&table->trapping, 1, __ATOMIC_RELAXED);
    }
  }
  return handle;
}

/* A thread that blocks all signals would be killed by a trap. */

int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  sigset_t without;
  if (set && how != SIG_UNBLOCK) {
    without = *set;
    sigdelset(&without, SIGSYS);
    set = &without;
  }
  return real_pthread_sigmask(how, set, old);
}

int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
  int error = pthread_sigmask(how, set, old);
  if (error) errno = error;
  return error ? -1 : 0;
}

/* The calls. */

#define FAIL(call, descriptor)                                 \
  if (OURS(CALLER) && fails(call, CALLER, (int)(descriptor))) { \
    errno = table->error;                                      \
    return -1;                                                 \
  }

#define WRAP(call, name, descriptor, parameters, arguments) \
  int name parameters {                                     \
    FAIL(call, descriptor)                                  \
    return real_##name arguments;                           \
  }

WRAP(SOCKET, socket, -1, (int a, int b, int c), (a, b, c))
WRAP(SOCKETPAIR, socketpair, -1, (int a, int b, int c, int d[2]), (a, b, c, d))
WRAP(BIND, bind, fd, (int fd, const struct sockaddr *a, socklen_t l), (fd, a, l))
WRAP(LISTEN, listen, fd, (int fd, int n), (fd, n))
WRAP(ACCEPT, accept4, fd, (int fd, struct sockaddr *a, socklen_t *l, int f), (fd, a, l, f))
WRAP(CONNECT, connect, fd, (int fd, const struct sockaddr *a, socklen_t l), (fd, a, l))
WRAP(SHUTDOWN, shutdown, fd, (int fd, int how), (fd, how))
WRAP(GETSOCKOPT, getsockopt, fd, (int fd, int l, int n, void *v, socklen_t *s), (fd, l, n, v, s))
WRAP(SETSOCKOPT, setsockopt, fd, (int fd, int l, int n, const void *v, socklen_t s), (fd, l, n, v, s))
WRAP(GETSOCKNAME, getsockname, fd, (int fd, struct sockaddr *a, socklen_t *l), (fd, a, l))
WRAP(GETPEERNAME, getpeername, fd, (int fd, struct sockaddr *a, socklen_t *l), (fd, a, l))
WRAP(POLL, poll, n, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
WRAP(PIPE2, pipe2, -1, (int fds[2], int flags), (fds, flags))
WRAP(DUP2, dup2, from, (int from, int to), (from, to))
WRAP(MEMFD_CREATE, memfd_create, -1, (const char *name, unsigned flags), (name, flags))
WRAP(FTRUNCATE, ftruncate, fd, (int fd, off_t length), (fd, length))
WRAP(UNLINK, unlink, -1, (const char *path), (path))
WRAP(CHMOD, chmod, -1, (const char *path, mode_t mode), (path, mode))
WRAP(FCHMOD, fchmod, fd, (int fd, mode_t mode), (fd, mode))
WRAP(CHDIR, chdir, -1, (const char *path), (path))
WRAP(FLOCK, flock, fd, (int fd, int operation), (fd, operation))
WRAP(SETRLIMIT, setrlimit, -1, (__rlimit_resource_t r, const struct rlimit *l), (r, l))
WRAP(GETRLIMIT, getrlimit, -1, (__rlimit_resource_t r, struct rlimit *l), (r, l))
WRAP(EXECVE, execve, -1, (const char *p, char *const a[], char *const e[]), (p, a, e))
WRAP(STAT, statx, fd, (int fd, const char *p, int f, unsigned m, struct statx *s), (fd, p, f, m, s))
WRAP(STAT, fstat, fd, (int fd, struct stat *s), (fd, s))
WRAP(STAT, fstat64, fd, (int fd, struct stat64 *s), (fd, s))
WRAP(STAT, __fxstat, fd, (int v, int fd, struct stat *s), (v, fd, s))
WRAP(STAT, __fxstat64, fd, (int v, int fd, struct stat64 *s), (v, fd, s))
WRAP(STAT, __fxstatat, fd, (int v, int fd, const char *p, struct stat *s, int f), (v, fd, p, s, f))
WRAP(STAT, fstatat, fd, (int fd, const char *p, struct stat *s, int f), (fd, p, s, f))
WRAP(STAT, __lxstat64, -1, (int v, const char *p, struct stat64 *s), (v, p, s))
WRAP(STAT, __xstat64, -1, (int v, const char *p, struct stat64 *s), (v, p, s))

pid_t fork(void) {
  FAIL(FORK, -1)
  return real_fork();
}

pid_t waitpid(pid_t pid, int *status, int options) {
  FAIL(WAITPID, pid)
  return real_waitpid(pid, status, options);
}

ssize_t readlink(const char *path, char *buffer, size_t size) {
  FAIL(READLINK, -1)
  return real_readlink(path, buffer, size);
}

DIR *opendir(const char *path) {
  if (OURS(CALLER) && fails(OPENDIR, CALLER, -1)) {
    errno = table->error;
    return NULL;
  }
  return real_opendir(path);
}

/* The descriptor is closed all the same: close(2). */
int close(int fd) {
  if (OURS(CALLER) && fails(CLOSE, CALLER, fd)) {
    real_close(fd);
    errno = table->error;
    return -1;
  }
  return real_close(fd);
}

static int is_stream(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return real_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/* A short transfer: the first byte only. */
static struct msghdr first_byte(const struct msghdr *message, struct iovec *first) {
  struct msghdr short_message = *message;
  size_t i = 0;
  while (i < message->msg_iovlen && message->msg_iov[i].iov_len == 0) i++;
  *first = i < message->msg_iovlen ? message->msg_iov[i] : (struct iovec){0};
  if (first->iov_len > 1) first->iov_len = 1;
  short_message.msg_iov = first;
  short_message.msg_iovlen = 1;
  return short_message;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  if (OURS(CALLER) && fails(SENDMSG, CALLER, fd)) {
    if (table->error == 0 && is_stream(fd)) {
      struct iovec first;
      struct msghdr part = first_byte(message, &first);
      return real_sendmsg(fd, &part, flags);
    }
    if (table->error != 0) {
      errno = table->error;
      return -1;
    }
  }
  return real_sendmsg(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  if (OURS(CALLER) && fails(RECVMSG, CALLER, fd)) {
    if (table->error == 0 && is_stream(fd)) {
      struct iovec first;
      struct msghdr part = first_byte(message, &first);
      ssize_t result = real_recvmsg(fd, &part, flags);
      part.msg_iov = message->msg_iov;
      part.msg_iovlen = message->msg_iovlen;
      *message = part;
      return result;
    }
    if (table->error != 0) {
      errno = table->error;
      return -1;
    }
  }
  return real_recvmsg(fd, message, flags);
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
  FAIL(SEND, fd)
  return real_send(fd, data, length, flags);
}

ssize_t recv(int fd, void *data, size_t length, int flags) {
  FAIL(RECV, fd)
  return real_recv(fd, data, length, flags);
}

ssize_t read(int fd, void *data, size_t length) {
  FAIL(READ, fd)
  return real_read(fd, data, length);
}

ssize_t write(int fd, const void *data, size_t length) {
  FAIL(WRITE, fd)
  return real_write(fd, data, length);
}

#define VARIABLE(after)                                                                             \
  va_list list;                                                                                     \
  va_start(list, after);                                                                            \
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long), d = va_arg(list, long); \
  long e = va_arg(list, long), f = va_arg(list, long);                                              \
  va_end(list);                                                                                     \
  (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;

static int control(uintptr_t caller, int fd, int command, long argument) {
  enum call call;
  switch (command) {
  case F_DUPFD_CLOEXEC: call = FCNTL_DUPFD; break;
  case F_GETFD: call = FCNTL_GETFD; break;
  case F_SETFD: call = FCNTL_SETFD; break;
  case F_GETFL: call = FCNTL_GETFL; break;
  case F_SETFL: call = FCNTL_SETFL; break;
  case F_ADD_SEALS: call = FCNTL_ADD_SEALS; break;
  case F_GET_SEALS: call = FCNTL_GET_SEALS; break;
  default: call = FCNTL_OTHER;
  }
  if (OURS(caller) && fails(call, caller, fd)) {
    errno = table->error;
    return -1;
  }
  return real_fcntl(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
  VARIABLE(command)
  return control(CALLER, fd, command, a);
}

int fcntl64(int fd, int command, ...) {
  VARIABLE(command)
  return control(CALLER, fd, command, a);
}

int ioctl(int fd, unsigned long request, ...) {
  VARIABLE(request)
  FAIL(IOCTL, fd)
  return real_ioctl(fd, request, a);
}

int open(const char *path, int flags, ...) {
  VARIABLE(flags)
  FAIL(OPEN, -1)
  return real_open(path, flags, (mode_t)a);
}

int open64(const char *path, int flags, ...) {
  VARIABLE(flags)
  FAIL(OPEN, -1)
  return real_open64(path, flags, (mode_t)a);
}

int openat(int fd, const char *path, int flags, ...) {
  VARIABLE(flags)
  FAIL(OPENAT, fd)
  return real_openat(fd, path, flags, (mode_t)a);
}

int prctl(int option, ...) {
  VARIABLE(option)
  FAIL(PRCTL, option)
  return real_prctl(option, a, b, c, d);
}

long syscall(long number, ...) {
  VARIABLE(number)
  if (OURS(CALLER)) {
    enum call call = CALLS;
    switch (number) {
    case SYS_close_range: call = CLOSE_RANGE; break;
    case SYS_openat2: call = OPENAT2; break;
    case SYS_pidfd_open: call = PIDFD_OPEN; break;
    case SYS_pidfd_getfd: call = PIDFD_GETFD; break;
    case SYS_capget: call = CAPGET; break;
    case SYS_capset: call = CAPSET; break;
    case SYS_setgroups: call = SETGROUPS; break;
    case SYS_setresgid: call = SETRESGID; break;
    case SYS_setresuid: call = SETRESUID; break;
    case SYS_memfd_create: call = MEMFD_CREATE; break;
    case SYS_statx: call = STAT; break;
    case SYS_recvmmsg: call = RECVMMSG; break;
    case SYS_sendmmsg: call = SENDMMSG; break;
    }
    if (call != CALLS && fails(call, CALLER, (int)a)) {
      errno = table->error;
      return -1;
    }
  }
  return real_syscall(number, a, b, c, d, e, f);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
  FAIL(RECVMMSG, fd)
  return real_recvmmsg(fd, messages, count, flags, timeout);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  FAIL(SENDMMSG, fd)
  return real_sendmmsg(fd, messages, count, flags);
}

/* These give the error, and not by errno. */

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  if (OURS(CALLER) && fails(PTHREAD_CREATE, CALLER, -1)) return table->error;
  return real_pthread_create(thread, attributes, run, argument);
}

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **result) {
  if (OURS(CALLER) && fails(GETPWNAM, CALLER, -1)) {
    *result = NULL;
    return table->error;
  }
  return real_getpwnam_r(name, entry, buffer, size, result);
}

int getgrnam_r(const char *name, struct group *entry, char *buffer, size_t size, struct group **result) {
  if (OURS(CALLER) && fails(GETGRNAM, CALLER, -1)) {
    *result = NULL;
    return table->error;
  }
  return real_getgrnam_r(name, entry, buffer, size, result);
}

/* libuv's functions, which fdpass looks up by name: they fail with a negative error number. */

static int (*real_uv_poll_init)(void *, void *, int);
static int (*real_uv_async_init)(void *, void *, void *);

static int fail_uv_poll_init(void *loop, void *handle, int fd) {
  return fails(UV_POLL_INIT, CALLER, fd) ? -table->error : real_uv_poll_init(loop, handle, fd);
}

static int fail_uv_async_init(void *loop, void *handle, void *callback) {
  return fails(UV_ASYNC_INIT, CALLER, -1) ? -table->error : real_uv_async_init(loop, handle, callback);
}

void *dlsym(void *handle, const char *name) {
  if (OURS(CALLER)) {
    if (strcmp(name, "uv_poll_init") == 0) {
      real_uv_poll_init = (int (*)(void *, void *, int))real_dlsym(handle, name);
      return real_uv_poll_init ? (void *)fail_uv_poll_init : NULL;
    }
    if (strcmp(name, "uv_async_init") == 0) {
      real_uv_async_init = (int (*)(void *, void *, void *))real_dlsym(handle, name);
      return real_uv_async_init ? (void *)fail_uv_async_init : NULL;
    }
  }
  /* A jump, so that who calls stays who called: RTLD_NEXT depends on it. */
  return real_dlsym(handle, name);
}
