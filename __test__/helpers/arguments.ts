import type { ExecutionContext } from 'ava'

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
