import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { hasPython, isLinux, onlyIf } from './conditions.ts'
import { temporaryFolder } from './descriptors.ts'
import { type Superserver, superservers, until } from './superservers.ts'

const isRoot = process.getuid?.() === 0
const folder = temporaryFolder()
chmodSync(folder, 0o755)
let files = 0

/** A path of its own for a file of a test, in a folder that every user may read. */
export function newFile(name: string): string {
  return join(folder, `${name}-${files++}`)
}

/** What is observed of a superserver, and what all three show; where one differs on purpose, what that shows. */
export interface Scenario {
  readonly title: string
  observe(t: ExecutionContext, server: Superserver): Promise<unknown>
  readonly seen: unknown
  readonly but?: Partial<Record<Superserver['name'], readonly [title: string, seen: unknown]>>
  /** The one that has no such thing. */
  readonly lacking?: Superserver['name']
  /** Whether ours has to begin as root too. */
  readonly changesUser?: boolean
}

/** The text that a client received, and how its connection ended: 'open', 'end' or an error code. */
export type Heard = readonly [text: string, end: string]

/** A client of a service. */
export interface Client {
  /** Returns what it has received so far. */
  readonly heard: () => Heard
  /** Sends a text. */
  readonly say: (text: string) => void
  /** Resolves to what it has received at the end of its connection, or after a number of milliseconds. */
  readonly inTheEnd: (milliseconds?: number) => Promise<Heard>
}

/** Connects as a client, sends a text, and ends its sending side if `ended`. */
export function call(t: ExecutionContext, port: number, text = '', ended = false): Client {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
  let said = ''
  let end = 'open'
  const over = new Promise<void>((resolve) => {
    const finish = (how: string) => {
      end = how
      socket.destroy()
      resolve()
    }
    socket.setEncoding('utf8')
    socket.on('data', (part: string) => (said += part))
    socket.on('end', () => finish('end'))
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code!))
  })
  if (text !== '') socket.write(text)
  if (ended) socket.end()
  t.teardown(() => void socket.destroy())
  const heard = (): Heard => [said, end]
  return {
    heard,
    say: (more) => void socket.write(more),
    async inTheEnd(milliseconds = 10_000) {
      await Promise.race([over, delay(milliseconds, undefined, { ref: false })])
      return heard()
    }
  }
}

/** Connects to a service, and parses the JSON that it sends up to its end. */
export async function ask(t: ExecutionContext, port: number): Promise<Record<string, unknown>> {
  const [said, end] = await call(t, port).inTheEnd()
  if (end !== 'end') throw new Error(`The connection ended with ${end}: ${said}`)
  return JSON.parse(said) as Record<string, unknown>
}

/** The sender of datagrams to a service. */
export interface Sender {
  readonly send: (...texts: string[]) => void
  /** Resolves when the service has received all that was sent. */
  readonly taken: () => Promise<void>
  /** The answers, when there are so many, or so many milliseconds have gone by. */
  readonly answers: (count: number, milliseconds?: number) => Promise<Record<string, unknown>[]>
}

/** Opens a connected UDP socket, which only the service's own address can answer. */
export async function post(t: ExecutionContext, port: number): Promise<Sender> {
  const socket = createSocket('udp4')
  t.teardown(() => void socket.close())
  socket.connect(port, '127.0.0.1')
  await once(socket, 'connect')
  const received: Record<string, unknown>[] = []
  socket.on('message', (data) => received.push(JSON.parse(data.toString()) as Record<string, unknown>))
  const sent: Promise<void>[] = []
  // A line of /proc/net/udp: slot, local address, remote address, state, lengths of both queues; proc_net(5).
  const queue = new RegExp(`: \\w+:${port.toString(16).toUpperCase().padStart(4, '0')} \\S+ \\S+ \\w+:(\\w+)`)
  return {
    send: (...texts) => {
      for (const text of texts) sent.push(new Promise((resolve) => socket.send(text, () => resolve())))
    },
    async taken() {
      await Promise.all(sent)
      await until(() => Number(queue.exec(readFileSync('/proc/net/udp', 'utf8'))?.[1] ?? 1) === 0)
    },
    async answers(count, milliseconds = 5000) {
      const deadline = performance.now() + milliseconds
      while (received.length < count && performance.now() < deadline) await delay(10)
      return received
    }
  }
}

/** A program that can be taken away: a script, for the interpreter. */
export function temporaryProgram(command: readonly string[]): {
  path: string
  remove: () => void
  restore: () => void
} {
  const path = newFile('program')
  const restore = () => writeFileSync(path, `#!/bin/sh\nexec ${command.join(' ')}\n`, { mode: 0o755 })
  restore()
  return { path, restore, remove: () => rmSync(path) }
}

/** How the programs that answered followed one another, if each stayed so many seconds. */
export function succession(answers: readonly Record<string, unknown>[], stays: number): unknown {
  const starts = new Map(answers.map(({ pid, started }) => [pid, started as number]))
  const inOrder = [...starts.values()].toSorted((a, b) => a - b)
  return {
    answers: answers.length,
    programs: starts.size,
    overlapping: inOrder.some((start, i) => i > 0 && start - inOrder[i - 1]! < stays)
  }
}

export const served: Heard = ['hello', 'end']

/** Declares a test for each superserver of this machine: it shows what all show, or what it shows in its own way. */
export function compare({ title, observe, seen, but, lacking, changesUser = false }: Scenario): void {
  for (const server of superservers) {
    const { name, path } = server
    if (name === lacking) continue
    const [its, expected] = but?.[name] ?? [title, seen]
    const asRoot = name !== 'superserve' || changesUser
    const reason = `needs ${name}, Python 3.9 and Linux${asRoot ? ', and to begin as root' : ''}`
    const only = onlyIf(isLinux && hasPython && path !== undefined && (isRoot || !asRoot), reason, test.serial)
    only(`${name}: ${its}`, async (t) => {
      t.deepEqual(await observe(t, server), expected)
    })
  }
}
