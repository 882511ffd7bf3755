import { EventEmitter, once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { type IncomingMessage, get } from 'node:http'
import { type AddressInfo, type NetConnectOpts, type Socket, connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import {
  type ProcessEvent,
  type ServiceOptions,
  type Superserver,
  type SuperserverOptions,
  superserve
} from 'fdpass/superserver'
import { fixturePath } from './processes.ts'

/** A client of a service, which speaks in lines. */
export interface Client {
  /** Says a line; resolves to the next one that comes. */
  ask(line: string): Promise<string>
  say(line: string): void
  next(): Promise<string>
  /** Ends its half. */
  end(): void
  /** Closes. */
  close(): void
  /** What has come and was not taken. */
  readonly unread: readonly string[]
  /** Resolves at the end: to 'end', or the code of an error. */
  readonly ended: Promise<string>
}

/** Where a client finds what a superserver listens on. */
export function where(server: Superserver, index = 0): NetConnectOpts {
  const { address } = server.addresses[index]!
  return typeof address === 'string' ? { path: address } : { host: '127.0.0.1', port: (address as AddressInfo).port }
}

/** Connects as a client. It does not outlive the test. */
export async function call(t: ExecutionContext, to: NetConnectOpts): Promise<Client> {
  const socket = connect(to)
  t.teardown(() => void socket.destroy())
  const unread: string[] = []
  const news = new EventEmitter()
  let end: string | undefined
  let part = ''
  const finish = (how: string) => {
    end ??= how
    news.emit('news')
  }
  const ended = new Promise<string>((resolve) => {
    socket.on('end', () => (finish('end'), resolve('end')))
    socket.on('error', ({ code }: NodeJS.ErrnoException) => (finish(code!), resolve(code!)))
  })
  socket.setEncoding('utf8').on('data', (text: string) => {
    const lines = (part + text).split('\n')
    part = lines.pop()!
    unread.push(...lines)
    news.emit('news')
  })
  await once(socket, 'connect')
  const next = async () => {
    while (unread.length === 0) {
      if (end !== undefined) throw new Error(`The connection has ended: ${end}`)
      await once(news, 'news')
    }
    return unread.shift()!
  }
  const say = (line: string) => void socket.write(`${line}\n`)
  return {
    ask: (line) => (say(line), next()),
    say,
    next,
    end: () => void socket.end(),
    close: () => void socket.destroy(),
    unread,
    ended
  }
}

/** One HTTP request on a connection of its own; resolves to the body of the answer. */
export async function fetchFrom(to: NetConnectOpts, path = '/'): Promise<string> {
  const { path: socketPath, ...address } = to as { path?: string }
  const request = get({ ...address, socketPath, path, agent: false })
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  if (response.statusCode !== 200) throw new Error(`Status ${response.statusCode}`)
  let body = ''
  for await (const part of response.setEncoding('utf8')) body += part as string
  return body
}

/** Options of a service whose workers play a scene of `superserver-worker.ts`, with one worker by default. */
export function sceneOf(scene: string, ...args: string[]): Omit<ServiceOptions, 'listen'> {
  return { module: fixturePath('superserver-worker'), args: [scene, ...args], workers: 1 }
}

/** A service on any port of the loopback interface whose workers play a scene. */
export function onLoopback(scene: string, ...args: string[]): ServiceOptions {
  return { listen: 'tcp:127.0.0.1:0', ...sceneOf(scene, ...args) }
}

/** Starts a superserver in this process. It does not outlive the test. */
export async function begin(
  t: ExecutionContext,
  options: (ServiceOptions | { services: Record<string, ServiceOptions> }) & SuperserverOptions
): Promise<Superserver> {
  const server = await superserve({ signals: false, notify: false, ...options })
  t.teardown(() => server.close({ timeout: 0 }))
  return server
}

/** The processes of a superserver. */
export function pidsOf(server: Superserver): number[] {
  return server.stats().workers.map(({ pid }) => pid)
}

/** The processes that this one has started and that are there, be it as zombies (Linux). */
export function children(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        return /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1] === `${process.pid}`
      } catch {
        return false // it is no process, or no more
      }
    })
}

/** Whether a process exists, running or not yet reaped. */
export function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

export const handoffs = ['connection', 'listener'] as const

/** The next event of a process, or of one that is awaited. */
export async function nextOf<E extends ProcessEvent>(
  server: Superserver,
  name: 'spawn' | 'ready' | 'exit'
): Promise<E> {
  return ((await once(server, name)) as [E])[0]
}

/** Opens a connection and sends bytes. It does not outlive the test. */
export async function dial(t: ExecutionContext, to: NetConnectOpts, data = ''): Promise<Socket> {
  const socket = connect(to)
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  if (data !== '') socket.write(data)
  return socket
}

/** Reads until a text has come. */
export async function readTo(socket: Socket, text: string): Promise<string> {
  let read = ''
  while (!read.includes(text)) read += String(((await once(socket, 'data')) as [Buffer])[0])
  return read
}

/** Closes a superserver, whose workers have half of this time before they end what would not end. */
export const closeSoon = (server: Superserver) => server.close({ timeout: 10_000 })

/**
 * Closes a superserver while a client is slow to read a large response: it begins when an idle connection is ended, 5 seconds before the
 * workers are killed.
 */
export async function readSlowly(t: ExecutionContext, server: Superserver): Promise<void> {
  const slow = await dial(t, where(server), 'GET /large HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(slow, 'data')
  slow.pause()
  const idle = await dial(t, where(server), 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await readTo(idle, '\r\n\r\n')
  const ended = once(idle.resume(), 'end')
  const closing = closeSoon(server)
  await ended
  let length = 0
  for await (const part of slow) {
    length += (part as Buffer).length
    await delay(1)
  }
  t.true(length > 15 * 1024 * 1024, `${length}`)
  await closing
}
