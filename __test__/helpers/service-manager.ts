import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Descriptor, type Message, type UnixSocket, bind } from 'fdpass'
import { temporaryFolder } from './descriptors.ts'
import { fixturePath } from './processes.ts'
import { text } from './sockets.ts'

// Tests set the environment of this process, so they run one at a time.
export const folder = temporaryFolder()

export const me = { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() }

let addresses = 0

/** Sets variables until the end of the test. */
export function setVariables(t: ExecutionContext, variables: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
    t.teardown(() => delete process.env[name])
  }
}

/** Opens the socket of a service manager, and sets NOTIFY_SOCKET to its address. */
export function openNotifySocket(t: ExecutionContext, kind: 'path' | 'abstract' = 'path'): UnixSocket {
  const name = `fdpass-notify-${process.pid}-${addresses++}`
  const path = join(folder, name)
  const socket = bind(kind === 'path' ? path : `\0${name}`, { credentials: true })
  t.teardown(() => socket.close())
  setVariables(t, { NOTIFY_SOCKET: kind === 'path' ? path : `@${name}` })
  return socket
}

/** A service manager: passes descriptors, receives notifications, and stores descriptors. */
export class ServiceManager {
  /** The address as `NOTIFY_SOCKET` has it. */
  readonly address: string
  /** The notifications it received, without those that it handles itself: stores and barriers. */
  readonly told: { lines: string[]; pid: number | null }[] = []
  /** What it keeps, by name. */
  readonly store: { name: string; descriptor: Descriptor; poll: boolean }[] = []
  readonly #socket: UnixSocket
  #heard: (() => void)[] = []

  constructor(t: ExecutionContext, kind: 'path' | 'abstract' = 'path') {
    const name = `manager-${process.pid}-${addresses++}`
    this.address = kind === 'path' ? join(folder, name) : `@${name}`
    this.#socket = bind(this.address.replace(/^@/, '\0'), { credentials: true })
    t.teardown(() => {
      this.#socket.close()
      for (const { descriptor } of this.store) descriptor.closeSync()
    })
    void this.#listen()
  }

  async #listen(): Promise<void> {
    for await (const message of this.#socket) {
      this.#take(message)
      message.close() // what was kept is no longer its
      for (const hear of this.#heard.splice(0)) hear()
    }
  }

  #take(message: Message): void {
    const lines = text(message)!.split('\n')
    const name = lines.find((line) => line.startsWith('FDNAME='))?.slice('FDNAME='.length) ?? 'stored'
    if (lines.includes('BARRIER=1')) return
    if (lines.includes('FDSTORE=1')) {
      const poll = !lines.includes('FDPOLL=0')
      for (const fd of message.fds) this.store.push({ name, descriptor: fd.duplicate(), poll })
    } else if (lines.includes('FDSTOREREMOVE=1')) {
      for (const kept of this.store.filter((each) => each.name === name)) {
        this.store.splice(this.store.indexOf(kept), 1)
        kept.descriptor.closeSync()
      }
    } else this.told.push({ lines, pid: message.credentials!.pid })
  }

  /** Waits for a notification with this prefix. */
  async hears(start: string): Promise<string[]> {
    for (;;) {
      const place = this.told.findIndex(({ lines }) => lines[0]!.startsWith(start))
      if (place >= 0) return this.told.splice(0, place + 1).at(-1)!.lines
      await new Promise<void>((resolve) => this.#heard.push(resolve))
    }
  }

  /** Starts a fixture with sockets, and with what it keeps. */
  start(
    t: ExecutionContext,
    fixture: string,
    sockets: readonly (readonly [name: string, descriptor: Descriptor])[],
    ...args: readonly string[]
  ): ChildProcess {
    const passed = [...sockets, ...this.store.map(({ name, descriptor }) => [name, descriptor] as const)]
    const env = {
      ...process.env,
      NOTIFY_SOCKET: this.address,
      LISTEN_FDS: `${passed.length}`,
      LISTEN_FDNAMES: passed.map(([name]) => name).join(':')
    }
    const node = [process.execPath, ...process.execArgv, fixturePath(fixture), ...args]
    const child = spawn('sh', ['-c', 'export LISTEN_PID=$$; exec "$@"', 'sh', ...node], {
      env: passed.length > 0 ? env : { ...process.env, NOTIFY_SOCKET: this.address },
      stdio: ['ignore', 'pipe', 'inherit', ...passed.map(([, { fd }]) => fd)]
    })
    t.teardown(() => child.kill('SIGKILL'))
    return child
  }
}
