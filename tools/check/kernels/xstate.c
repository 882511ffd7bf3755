/* Preloaded into a user-mode kernel. Older ones know less extended processor state than this CPU has (AMX) and pass ptrace(2) a part of it,
 * but PTRACE_SETREGSET takes the whole (regset(x86_64 xstate), arch/x86/kernel/fpu/regset.c): the part replaces the start of the current state. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char state[65536] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...) {
  va_list list;
  va_start(list, request);
  long pid = va_arg(list, long);
  void *address = va_arg(list, void *), *data = va_arg(list, void *);
  va_end(list);
  struct iovec whole = {state, sizeof state}, *part = data;
  if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE &&
      syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &whole) == 0 && whole.iov_len > part->iov_len) {
    memcpy(state, part->iov_base, part->iov_len);
    data = &whole;
  }
  if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER) return syscall(SYS_ptrace, request, pid, address, data);
  /* The C library's convention: the word is the result, where the system call writes it to memory. */
  long word;
  return syscall(SYS_ptrace, request, pid, address, &word) < 0 ? -1 : word;
}
