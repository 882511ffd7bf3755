import { closeSync, openSync } from 'node:fs'
import { constants } from 'node:os'
import { type NativeExitStatus, type ProgramDescription, native, systemError } from '../native/internal.ts'
import { PollHandle } from '../event-loop/internal.ts'

/** The exit status of a process. Both are null if other code in the superserver's process has reaped it. */
export interface ExitStatus {
  /** Its exit code; null if a signal ended it. */
  readonly code: number | null
  /** The signal that ended it, or null. A real-time signal has no name in Node: it is `'SIG'` and its number, such as `'SIG40'`. */
  readonly signal: NodeJS.Signals | `SIG${number}` | null
}

const signals = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]))

/** Returns an exit status with the name of the signal. */
export function exitStatusOf({ code, signal }: NativeExitStatus): ExitStatus {
  return { code, signal: signal === null ? null : (signals.get(signal) ?? `SIG${signal}`) }
}

/** Returns the error of a program that could not be executed, from the failed system call and its negative error number. */
export function spawnError(errno: number, syscall: string, program: ProgramDescription): Error {
  const path = syscall === 'chdir' ? program.directory : program.path
  return Object.assign(systemError(errno, syscall, path), { path })
}

/** A child process. It does not keep this process alive. */
export class Child extends PollHandle {
  readonly pid: number
  /** Resolves when the process has exited and was reaped. */
  readonly ended: Promise<ExitStatus>
  #end!: (status: ExitStatus) => void

  private constructor(pid: number, exit: number) {
    super(exit)
    this.pid = pid
    this.ended = new Promise((resolve) => (this.#end = resolve))
    this.referenced = false
    this.update()
  }

  /**
   * Spawns a worker. Its standard input is empty, and its standard output and error are this process's. Its descriptor 3 is a
   * duplicate of `channel`, which stays open here.
   */
  static spawn(program: ProgramDescription, channel: number): Child {
    const empty = openSync('/dev/null', 'r+')
    try {
      const spawned = native.spawn(program, [empty, isOpen(1) ? 1 : empty, isOpen(2) ? 2 : empty, channel])
      if ('errno' in spawned) throw spawnError(spawned.errno, spawned.syscall, program)
      return new Child(spawned.pid, spawned.exitFd)
    } finally {
      closeSync(empty)
    }
  }

  /** Sends a signal; with `group` to its whole process group. */
  kill(signal: NodeJS.Signals, group = false): void {
    if (this.closed) return // its pid may have been reused
    try {
      process.kill(group ? -this.pid : this.pid, signal)
    } catch {
      // It is a zombie, or runs as another user since it executed a set-user-ID program.
    }
  }

  protected get waitsForInput(): boolean {
    return !this.closed
  }

  protected flushInput(): void {
    const status = native.reap(this.pid)
    if (status === null) return
    this.close()
    // Reaping fails if other code in this process has reaped the child.
    this.#end(typeof status === 'number' ? { code: null, signal: null } : exitStatusOf(status))
  }

  protected fail(): void {
    this.watchLater()
  }

  protected end(): number[] {
    return []
  }
}

function isOpen(fd: number): boolean {
  return typeof native.kind(fd) === 'string'
}
