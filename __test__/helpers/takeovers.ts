import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { type Interface, createInterface } from 'node:readline'
import type { ExecutionContext } from 'ava'
import { Descriptor } from 'fdpass'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { readAllOf } from './connections.ts'
import { fixturePath, fixtureSource } from './processes.ts'

/** Takes over, or begins; what it has does not outlive the test. */
export async function open(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await takeover(options)
  t.teardown(() => {
    place.close()
    for (const listener of Object.values(place.listeners)) listener.closeSync()
  })
  return place
}

/** As `open`, and is ready. */
export async function begin(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await open(t, options)
  await place.ready()
  return place
}

export const portOf = ({ address }: Descriptor) => (address as AddressInfo).port

/** Sends a request over a new connection, and resolves to the answer. */
export async function ask(to: number | string): Promise<string> {
  const socket = typeof to === 'number' ? dial(to, '127.0.0.1') : dial(to)
  return (await readAllOf(socket)).toString()
}

/** A server that answers each connection with a word. */
export const saying = (word: string) => createServer((connection) => connection.end(word))

export const tcp = { http: 'tcp:127.0.0.1:0' }

/** How many clients connect without a pause. Fewer than any backlog holds, so that a slow machine refuses none. */
export const CLIENTS = 64

export type Kind = 'net' | 'http' | 'superserver'

/** A process of the row: fixtures/takeover-server.ts. */
export interface Server {
  readonly child: ChildProcess
  readonly lines: AsyncIterator<string, undefined>
  /** Its exit, which may come before its last line was read. */
  readonly exited: Promise<[number | null, NodeJS.Signals | null]>
}

/** Starts a process of the row; with `crash` it ends at that stage of its start. */
export function startServer(
  t: ExecutionContext,
  path: string,
  name: string,
  kind: Kind,
  crash = '',
  timeout = 60_000
): Server {
  const args = [fixturePath('takeover-server'), path, name, kind, crash, `${timeout}`]
  const errors = crash === '' ? 'inherit' : 'ignore' // it is meant to fail
  const child = spawn(process.execPath, [...process.execArgv, ...args], { stdio: ['ignore', 'pipe', errors] })
  t.teardown(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })
  return {
    child,
    lines: lines[Symbol.asyncIterator]() as Server['lines'],
    exited: once(child, 'exit') as Server['exited']
  }
}

/** Resolves to a process's port when the process serves. */
export async function serving({ lines }: Server): Promise<number> {
  const port = Number((await lines.next()).value)
  const { value } = await lines.next()
  if (value !== 'ready') throw new Error(`It is not ready: ${value}`)
  return port
}

/** What became of all connections. */
export interface Seen {
  readonly answered: number
  readonly reset: number
  readonly refused: number
  readonly odd: number
  readonly asked: number
  /** The count of answers by the name of the process that gave them. */
  readonly by: Readonly<Record<string, number>>
}

/** Clients that connect without a pause: fixtures/load.py. */
export class Load {
  readonly #child: ChildProcess
  readonly #lines: Interface
  readonly #names = new Set<string>()
  #answered = 0
  #seen: Seen | undefined

  constructor(t: ExecutionContext, port: number, kind: Kind) {
    const form = kind === 'http' ? 'GET /% HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' : '%'
    const args = [fixtureSource('load.py'), `${port}`, `${CLIENTS}`, form]
    const child = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
    t.teardown(() => child.kill('SIGKILL'))
    this.#child = child
    this.#lines = createInterface({ input: child.stdout })
    this.#lines.on('line', (line) => {
      const printed = JSON.parse(line) as { first?: string; answered?: number; by?: object }
      if (printed.by !== undefined) this.#seen = printed as Seen
      else if (printed.first !== undefined) this.#names.add(printed.first)
      else this.#answered = printed.answered!
    })
  }

  /** Resolves when a process of this name has answered a connection. */
  async answeredBy(name: string): Promise<void> {
    await this.#until(() => this.#names.has(name))
  }

  /** Resolves when at least twice as many connections as there are clients were answered after the call. */
  async goesOn(): Promise<void> {
    const enough = this.#answered + 4 * CLIENTS
    await this.#until(() => this.#answered >= enough)
  }

  /** Ends the clients; each connection that was opened has its end first. */
  async end(): Promise<Seen> {
    this.#child.stdin!.end()
    await this.#until(() => this.#seen !== undefined)
    return this.#seen!
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await once(this.#lines, 'line')
  }
}

/** That every connection was answered: none refused, none reset. */
export function assertAllAnswered(t: ExecutionContext, { answered, reset, refused, odd, asked, by }: Seen): void {
  t.log(JSON.stringify({ answered, by }))
  t.deepEqual([refused, reset, odd], [0, 0, 0])
  t.is(answered, asked)
}
