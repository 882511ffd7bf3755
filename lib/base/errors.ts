import { constants } from 'node:os'
import { isOfAnotherCopy } from './inspection.ts'
import { type SystemError, systemError } from '../native/system-error.ts'
import { inspect } from 'node:util'

/** Adds a `code` to an error. */
export function withCode<E extends Error>(error: E, code: string): E & { code: string } {
  return Object.assign(error, { code })
}

/** Returns the error of a call that the state of its object, or of this process, does not allow. */
export function invalidState(text: string): Error {
  return withCode(new Error(text), 'ERR_INVALID_STATE')
}

/** Returns the error of a call on a path, from a negative error number: `ENOENT: no such file or directory, open '/x'`. */
export function pathError(errno: number, syscall: string, path: string): SystemError & { path: string } {
  const { message, code } = systemError(errno, syscall, path)
  return Object.assign(new Error(message), { code, errno, syscall, path })
}

/** Returns an EPROTO error: received data violates the protocol. */
export function protocolError(text: string): SystemError {
  return receiveError('EPROTO', text)
}

/** Returns the EPROTO error of a message whose data could not be decoded. */
export function undecodable(data: Uint8Array, cause: unknown): SystemError {
  return Object.assign(receiveError('EPROTO', 'a message could not be decoded', cause), { data })
}

/** Returns the EMSGSIZE error of a received message that exceeds a limit. */
export function tooLarge(text: string): SystemError {
  return receiveError('EMSGSIZE', `a message has ${text} are accepted`)
}

function receiveError(code: 'EPROTO' | 'EMSGSIZE', text: string, cause?: unknown): SystemError {
  const error = new Error(`${code}: ${text}, recvmsg`, cause === undefined ? undefined : { cause })
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'recvmsg' })
}

/** Returns the ETIMEDOUT error of a reply that did not arrive in time. */
export function timedOut(milliseconds: number, syscall: string): SystemError {
  const error = new Error(`ETIMEDOUT: no answer within ${milliseconds} ms, ${syscall}`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall })
}

/** Properties of an error about an argument: a `TypeError` or `RangeError` with Node's `code` and message. */
export interface ArgumentError extends Error {
  /** The kind of error: wrong type, unacceptable value, or a number out of range. */
  readonly code: 'ERR_INVALID_ARG_TYPE' | 'ERR_INVALID_ARG_VALUE' | 'ERR_OUT_OF_RANGE'
  /** The argument's path, such as `'data'` or `'options.services.web.listen[0]'`. */
  readonly argument: string
  /** What is wrong with it: the message's text after the argument's name, such as `'must not be empty'`. */
  readonly reason: string
}

/** Returns a TypeError for an argument of the wrong type. `accepted` completes the sentence "must be …". */
export function invalidType(name: string, accepted: string, value: unknown): TypeError & ArgumentError {
  const reason = `must be ${accepted}. Received ${show(value)}`
  return aboutArgument(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_TYPE', name, reason)
}

/** Returns a TypeError for an argument of the right type whose value cannot be accepted. `reason` follows its name. */
export function invalidValue(name: string, reason: string): TypeError & ArgumentError {
  return aboutArgument(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_VALUE', name, reason)
}

/** Returns a RangeError for a number outside of the accepted range. `accepted` completes the sentence "It must be …". */
export function outOfRange(name: string, accepted: string, value: unknown): RangeError & ArgumentError {
  const reason = `is out of range. It must be ${accepted}. Received ${show(value)}`
  return aboutArgument(new RangeError(`The value of ${quote(name, '')} ${reason}`), 'ERR_OUT_OF_RANGE', name, reason)
}

/** Adds `argument` and `reason`; not enumerable, because `util.inspect` would print them a second time. */
function aboutArgument<E extends Error>(
  error: E,
  code: ArgumentError['code'],
  argument: string,
  reason: string
): E & ArgumentError {
  Object.defineProperties(error, { argument: { value: argument }, reason: { value: reason } })
  return withCode(error, code) as E & ArgumentError
}

// Node's wording: an argument, or a property of an argument.
function quote(name: string, kind = name.includes('.') ? ' property' : ' argument'): string {
  return `"${name}"${kind}`
}

function show(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `function ${value.name}`
  if (typeof value === 'object') {
    // A JSON text can set both to anything.
    const name: unknown = value.constructor?.name
    const instance = `an instance of ${typeof name === 'string' ? name : 'Object'}`
    if (!isOfAnotherCopy(value)) return instance
    const advice = 'release' in value ? ': pass the number that its release() returns' : ''
    return `${instance} of another copy of fdpass in this process${advice}`
  }
  return `type ${typeof value} (${inspect(value)})`
}

/** Returns a value of any type as an error message shows it. JSON has no form of some values, and none of an object that is nested too deeply. */
export function shown(value: unknown): string {
  const isPlain = typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
  return isPlain ? JSON.stringify(value) : show(value)
}

/** Returns a TypeError for a callback that returned a value of the wrong type. */
export function invalidReturn(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`Expected ${accepted} to be returned from the "${name}" function. Received ${show(value)}`),
    'ERR_INVALID_RETURN_VALUE'
  )
}

// The platforms with a published binary: package.json's napi.targets.
const platforms = 'linux-x64-gnu linux-arm64-gnu linux-x64-musl linux-arm64-musl darwin-x64 darwin-arm64 freebsd-x64'

/** Returns the error of a platform without descriptor passing, or without a loadable binary; `failure` is the loader's error. */
export function unsupportedPlatform(failure: unknown): Error {
  const reason =
    process.platform === 'win32' ? "Windows' Unix domain sockets carry no descriptors" : binaryMissing(failure)
  return withCode(new Error(`fdpass does not work here: ${reason}`, { cause: failure }), 'ERR_UNSUPPORTED_PLATFORM')
}

function binaryMissing(failure: unknown): string {
  const platform = `${process.platform}-${process.arch}${libc()}`
  const source =
    'build one in a clone of fdpass with `npm run build:native`, and set NAPI_RS_NATIVE_LIBRARY_PATH ' +
    'to the path of the .node file'
  if (!platforms.split(' ').includes(platform)) {
    return `there is no binary for ${platform}, only for ${platforms.replaceAll(' ', ', ')}; ${source}`
  }
  if (failure instanceof Error && /["']#binding["']/.test(failure.message)) {
    return "its binary cannot be found from within a bundle: leave fdpass outside (with esbuild `external: ['fdpass']`)"
  }
  // The loader reports each attempt as the cause of the next one.
  for (let error = failure; error instanceof Error; error = error.cause) {
    if (!error.message.startsWith('Cannot find '))
      return `the binary for ${platform} could not be loaded: ${error.message}`
  }
  return (
    `the package fdpass-${platform}, which holds the binary for this platform, is not installed. It is an optional ` +
    'dependency: install without --omit=optional (--no-optional); with a lock file that was made on another platform, delete ' +
    'it and node_modules first; and from a registry that has the package. ' +
    `Otherwise, ${source}`
  )
}

function libc(): string {
  if (process.platform !== 'linux') return ''
  const report = process.report as (NodeJS.ProcessReport & { excludeNetwork?: boolean }) | undefined
  if (report === undefined) return '-gnu'
  report.excludeNetwork = true // otherwise the report resolves the addresses of all sockets
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header !== undefined && header.glibcVersionRuntime === undefined ? '-musl' : '-gnu'
}

/**
 * Returns a rejection whose stack names the awaiting functions.
 *
 * An error that is created in a callback of the event loop has no caller. V8 finds the awaiting functions if the error is created
 * in a microtask whose promise they await: so resolve the pending promise with this one. Resolving takes effect one microtask
 * later, hence the second `await`.
 */
export async function rejection(error: () => unknown): Promise<never> {
  await undefined
  await undefined
  throw error()
}
