import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import type { ExecutionContext } from 'ava'
import { UnixServer, UnixSocket, bind, connect, listen } from 'fdpass'
import { type Loose, RANGE, TYPE, VALUE, notOptions, notSignals, rejects, throws } from './arguments.ts'
import { isLinux } from './conditions.ts'
import { countFds, temporaryFolder } from './descriptors.ts'
import { text } from './messages.ts'
import { isPending } from './promises.ts'

export const looseListen = listen as Loose

export const looseFrom = UnixSocket.from.bind(UnixSocket) as Loose

export const CLOSED = 'ERR_SOCKET_CLOSED'

export const root = temporaryFolder()

chmodSync(root, 0o755)

/** A folder of its own for a test. */
export function newFolder(): string {
  return mkdtempSync(join(root, 'x'))
}

export const numbers = [0, 3, NaN, 1.5, -1, 2 ** 31, 2 ** 32, Infinity]

export const notAddresses = [
  ...numbers,
  null,
  true,
  false,
  3n,
  Symbol('address'),
  () => '/address',
  ['/address'],
  {},
  new String('/address'),
  Buffer.from('/address'),
  new URL('file:///address'),
  new Date(),
  new Map(),
  Object.create(null)
]

export const notBooleans = [
  ...numbers,
  null,
  '',
  'true',
  1n,
  Symbol('true'),
  () => true,
  [true],
  {},
  new Boolean(true),
  new Date(),
  new Map()
]

export const notTypes = [
  ...numbers,
  'raw',
  '',
  'STREAM',
  'toString',
  '0',
  null,
  true,
  1n,
  Symbol('stream'),
  () => 'stream',
  ['stream'],
  {},
  new Date(),
  new Map()
]

/** A value of the argument that an error names, and the error's code. */
export type Bad = readonly [argument: string, value: unknown, code: string]

/** Bad values of one option, each in an object of options. */
export function badOption(name: string, values: readonly unknown[], code: string): Bad[] {
  return values.map((value) => [`options.${name}`, { [name]: value }, code])
}

export const badOptions: Bad[] = [...notOptions, 1.5, -1, 2 ** 31, 2 ** 32, Infinity].map((value) => [
  'options',
  value,
  TYPE
])

export const badReceiving = ['credentials', 'pidfd'].flatMap((name) => badOption(name, notBooleans, TYPE))

export const badSignals = badOption('signal', [...notSignals, ...numbers, 3n, new Date(), new Map()], TYPE)

/** What no address is, for the argument of this name. */
export function badAddresses(argument: string): Bad[] {
  return [
    ...notAddresses.map((value) => [argument, value, TYPE] as const),
    ...['', 'a\0b', '/tmp/\0', '/\0'].map((value) => [argument, value, VALUE] as const),
    ...(isLinux ? [] : ['\0abstract'].map((value) => [argument, value, VALUE] as const))
  ]
}

/** The words with which an error names an argument. */
export function naming(argument: string, code: string): RegExp {
  const name = argument.replaceAll('.', '\\.')
  if (code === RANGE) return new RegExp(`^The value of "${name}" is out of range\\. It must be .* Received `)
  const kind = argument.includes('.') ? 'property' : 'argument'
  return new RegExp(`^The "${name}" ${kind} ${code === TYPE ? 'must be .* Received ' : ''}`, 's')
}

export async function rejectsBad(t: ExecutionContext, what: string, bad: readonly Bad[], call: Loose): Promise<void> {
  for (const [argument, value, code] of bad) {
    await rejects(t, `${what}: ${inspect(value)}`, code, () => call(value), naming(argument, code))
  }
}

export function throwsBad(t: ExecutionContext, what: string, bad: readonly Bad[], call: Loose): void {
  for (const [argument, value, code] of bad) {
    throws(t, `${what}: ${inspect(value)}`, code, () => call(value), naming(argument, code))
  }
}

/** What the files of a folder are. */
export function contents(folder: string): unknown[] {
  return readdirSync(folder).map((name) => {
    const { mode, ino } = lstatSync(join(folder, name))
    return [name, mode, ino]
  })
}

/** Runs what may neither leave a descriptor open nor change a folder. */
export async function unchanged(t: ExecutionContext, folder: string, body: () => void | Promise<void>): Promise<void> {
  const files = contents(folder)
  const open = countFds()
  await body()
  t.is(countFds(), open)
  t.deepEqual(contents(folder), files)
}

/** That a server takes connections, and that none came to it before this one. */
export async function takesConnections(t: ExecutionContext, server: UnixServer): Promise<void> {
  const client = await connect(server.address)
  await client.send('the first')
  const connection = await server.accept()
  t.is(text(await connection.recv()), 'the first')
  const controller = new AbortController()
  const next = server.accept({ signal: controller.signal })
  t.true(await isPending(next))
  controller.abort()
  await t.throwsAsync(next, { name: 'AbortError' })
  client.close()
  connection.close()
}

/** That a datagram socket receives, and that nothing came to it before. */
export async function takesDatagrams(t: ExecutionContext, receiver: UnixSocket): Promise<void> {
  const sender = bind(null)
  await sender.send('the first', { to: receiver.localAddress! })
  const message = (await receiver.recv())!
  t.is(text(message), 'the first')
  t.deepEqual(message.fds, [])
  sender.close()
}

/** That two connected sockets work, and that nothing came to them before. */
export async function areConnected(t: ExecutionContext, a: UnixSocket, b: UnixSocket): Promise<void> {
  for (const [from, to] of [
    [a, b],
    [b, a]
  ] as const) {
    await from.send('the first')
    t.is(text(await to.recv()), 'the first')
  }
}

/** Closes sockets also where the test fails: collected later, they would change another test's count. */
export function closeAtLast(t: ExecutionContext, ...sockets: readonly (UnixServer | UnixSocket)[]): void {
  t.teardown(() => {
    for (const socket of sockets) socket.close()
  })
}

/** An abstract address of so many bytes. */
export function abstractOf(length: number): string {
  return `\0fdpass-${process.pid}-`.padEnd(length, 'x')
}

/** Leaves a file at a path as a socket does that was closed by the end of its process. */
export function leaveSocket(path: string): void {
  closeSync(bind(path).release())
}

/** Creates files in a folder that are not sockets. Returns the path of each. */
export function putOthers(folder: string): Record<string, string> {
  const path = (name: string) => join(folder, name)
  writeFileSync(path('file'), 'content of the file')
  mkdirSync(path('folder'))
  execFileSync('mkfifo', [path('fifo')])
  symlinkSync(path('file'), path('link'))
  symlinkSync(path('nowhere'), path('dangling'))
  leaveSocket(path('left'))
  symlinkSync(path('left'), path('link to a socket'))
  const names = ['file', 'folder', 'fifo', 'link', 'dangling', 'link to a socket']
  return Object.fromEntries(names.map((name) => [name, path(name)]))
}

/** That a server goes on behind a connection that already waits. */
export async function takesConnectionsAfter(
  t: ExecutionContext,
  server: UnixServer,
  client: UnixSocket
): Promise<void> {
  const connection = await server.accept()
  await areConnected(t, client, connection)
  client.close()
  connection.close()
  await takesConnections(t, server)
  server.close()
}
