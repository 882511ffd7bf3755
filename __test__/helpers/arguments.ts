import { lstatSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import type { ExecutionContext } from 'ava'
import { UnixSocket, listen, socketpair } from 'fdpass'
import { isLinux } from './conditions.ts'
import { countFds } from './descriptors.ts'

/** A function as plain JavaScript calls it. */
export type Loose = (...args: unknown[]) => unknown

export const TYPE = 'ERR_INVALID_ARG_TYPE'
export const RANGE = 'ERR_OUT_OF_RANGE'
export const VALUE = 'ERR_INVALID_ARG_VALUE'

/** What is no number at all, nor an object that holds one. */
export const notNumbers = [
  null,
  '3',
  '',
  true,
  false,
  3n,
  Symbol('3'),
  () => 3,
  {},
  [],
  [3],
  { fd: 3 },
  new Date(),
  new Map()
]
/** What is a number, but none that counts anything. */
export const notIntegers = [NaN, 1.5, -1.5, Infinity, -Infinity]
export const notOptions = [null, 5, NaN, 'options', true, 5n, Symbol('options'), () => ({})]
export const notSignals = [null, 5, 'signal', true, {}, new AbortController(), () => {}, [], { aborted: false }]

/** A method of an object, for arguments that its types do not allow. */
export function loose(object: object, method: string): Loose {
  return (...args) => (object as Record<string, Loose>)[method]!(...args)
}

/** A function that returns a promise reports its errors by rejecting it. */
export async function rejects(
  t: ExecutionContext,
  what: string,
  code: string | undefined,
  call: () => unknown,
  message?: RegExp
): Promise<void> {
  let promise: unknown
  t.notThrows(() => (promise = call()), `${what} throws`)
  t.true(promise instanceof Promise, what)
  await t.throwsAsync(promise as Promise<unknown>, expected(code, message), what)
}

/** Any other function throws them. */
export function throws(
  t: ExecutionContext,
  what: string,
  code: string | undefined,
  call: () => unknown,
  message?: RegExp
): void {
  t.throws(() => void call(), expected(code, message), what)
}

function expected(code: string | undefined, message: RegExp | undefined) {
  if (code === undefined) return undefined
  return message === undefined ? { code } : { code, message }
}

export const looseListen = listen as Loose

export const looseSocketpair = socketpair as Loose

export const looseFrom = UnixSocket.from.bind(UnixSocket) as Loose

export const CLOSED = 'ERR_SOCKET_CLOSED'

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
