import { closeSync, openSync } from 'node:fs'
import { constants } from 'node:os'
import { systemError, AGAIN, type ProgramDescription, describeStep, native, fds, outcome } from '../native/internal.ts'
import { Handle } from '../event-loop/internal.ts'

/** The exit status of a process. Both are null if other code in the superserver's process has reaped it. */
export interface ExitStatus {
  /** Its exit code; null if a signal ended it. */
  readonly code: number | null
  /** The signal that ended it, or null. */
  readonly signal: NodeJS.Signals | null
}

const signals = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]))

/** Decodes an exit status of the native side. */
export function exitStatusOf(number: number): ExitStatus {
  return number < 256 ? { code: number, signal: null } : { code: null, signal: signals.get(number - 256) ?? null }
}

/** Returns the error of a program that could not be executed, from a negative error number and the step that failed. */
export function spawnError(code: number, step: number, program: ProgramDescription): Error {
  const syscall = describeStep(step)
  const path = syscall === 'chdir' ? program.directory : program.path
  return Object.assign(systemError(code, syscall, path), { path })
}

/** A child process. It does not keep this process alive. */
export class Child extends Handle {
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
      fds.set([empty, isOpen(1) ? 1 : empty, isOpen(2) ? 2 : empty, channel])
      const pid = native.spawn(program, 4)
      if (pid < 0) throw spawnError(pid, outcome[0]!, program)
      return new Child(pid, outcome[0]!)
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
    if (status === AGAIN) return
    this.close()
    // Reaping fails if other code in this process has reaped the child.
    this.#end(status < 0 ? { code: null, signal: null } : exitStatusOf(status))
  }

  protected fail(): void {
    this.watchLater()
  }

  protected end(): number[] {
    return []
  }
}

function isOpen(fd: number): boolean {
  return native.kind(fd) >= 0
}
