import { constants } from 'node:os'
import { inspect } from 'node:util'
import { AGAIN, describeErrno } from '../native/binding.ts'

/** An error of the system, in Node's shape. */
export interface SystemError extends Error {
  /** The error's symbolic name, such as `'EPIPE'`. */
  code: string
  /** The platform's error number, negative. */
  errno: number
  /** The system call that failed, such as `'sendmsg'`. */
  syscall: string
  /** The address that was named, if one was. */
  address?: string
}

/** The error of a message whose descriptors could not be delivered: all of them are closed, its bytes are here. */
export interface ControlError extends Error {
  /** What went wrong: the descriptor table is full; more came than `maxFds`; something came that nobody asked for. */
  code: 'ERR_CONTROL_TRUNCATED' | 'ERR_TOO_MANY_DESCRIPTORS' | 'ERR_UNEXPECTED_CONTROL'
  /** The bytes of the message. */
  data: Uint8Array
}

function withCode<E extends Error>(error: E, code: string): E & { code: string } {
  return Object.assign(error, { code })
}

/** `EPIPE: broken pipe, sendmsg`, from a negative error number; with an address: `…, connect '/run/x'`. */
export function systemError(code: number, syscall: string, address?: string): SystemError {
  // The native calls have a number of their own for what can be done later: fork(2) says so too.
  const errno = code === AGAIN ? -constants.errno.EAGAIN : code
  const { name, text } = describeErrno(-errno)
  const call = address === undefined ? syscall : `${syscall} ${inspect(address)}`
  const error = new Error(`${name}: ${text.charAt(0).toLowerCase()}${text.slice(1)}, ${call}`)
  return Object.assign(error, { code: name, errno, syscall }, address === undefined ? {} : { address })
}

/** `ENOENT: no such file or directory, open '/x'`, from a negative error number, with the path as Node's fs has it. */
export function pathError(errno: number, syscall: string, path: string): SystemError & { path: string } {
  const { message, code } = systemError(errno, syscall, path)
  return Object.assign(new Error(message), { code, errno, syscall, path })
}

/** An argument of the wrong type. `accepted` ends the sentence "must be …". */
export function invalidType(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`The ${quote(name)} must be ${accepted}. Received ${show(value)}`),
    'ERR_INVALID_ARG_TYPE'
  )
}

/** An argument of the right type that cannot be taken, and why. */
export function invalidValue(name: string, reason: string): TypeError {
  return withCode(new TypeError(`The ${quote(name)} ${reason}`), 'ERR_INVALID_ARG_VALUE')
}

/** A number outside of what is accepted. */
export function outOfRange(name: string, accepted: string, value: unknown): RangeError {
  return withCode(
    new RangeError(`The value of ${quote(name, '')} is out of range. It must be ${accepted}. Received ${show(value)}`),
    'ERR_OUT_OF_RANGE'
  )
}

// Node's words: an argument, or a property of an argument.
function quote(name: string, kind = name.includes('.') ? ' property' : ' argument'): string {
  return `"${name}"${kind}`
}

function show(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `function ${value.name}`
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`
  return `type ${typeof value} (${inspect(value)})`
}

/** An operation that its signal ended. */
export function aborted(signal: AbortSignal): Error {
  const error = withCode(new Error('The operation was aborted', { cause: signal.reason }), 'ABORT_ERR')
  error.name = 'AbortError'
  return error
}

/** An operation on a socket that is closed, or that was closed while it waited. */
export function socketClosed(): Error {
  return withCode(new Error('The socket is closed'), 'ERR_SOCKET_CLOSED')
}

/** Descriptors without a byte that carries them: Linux drops them (unix_stream_sendmsg in af_unix.c sends nothing then). */
export function carrierMissing(name: string): TypeError {
  return invalidValue(name, 'must hold at least one byte to carry descriptors on a stream')
}

/** Something written to a stream that has no connection. */
export function notConnected(): SystemError {
  return systemError(-constants.errno.ENOTCONN, 'sendmsg')
}

/** A connection asked for where there is one. */
export function alreadyConnected(what: string): Error {
  return withCode(new Error(`The ${what} already, or is about to`), 'ERR_INVALID_STATE')
}

/** A call on a broker that is closed, or that was closed while it waited. */
export function brokerClosed(): Error {
  return withCode(new Error('The broker is closed'), 'ERR_SOCKET_CLOSED')
}

/** A call on a socket that belongs to a channel. */
export function inChannel(): Error {
  return withCode(new Error('The socket belongs to a Channel: its bytes are frames'), 'ERR_INVALID_STATE')
}

/** More than a channel lets wait. */
export function tooManyPending(what: string, most: number): Error {
  return withCode(
    new Error(`${most} ${what} are waiting already, as many as options.maxPending lets: await them`),
    'ERR_TOO_MANY_PENDING'
  )
}

/** A socket given up while it held messages, or a server connections, that an iteration took ahead. */
export function socketNotEmpty(held: string): Error {
  return withCode(
    new Error(`The socket holds ${held} that an iteration took ahead: take them first`),
    'ERR_SOCKET_NOT_EMPTY'
  )
}

/** A callback of the caller's that gave what it should not. */
export function invalidReturn(name: string, accepted: string, value: unknown): TypeError {
  return withCode(
    new TypeError(`Expected ${accepted} to be returned from the "${name}" function. Received ${show(value)}`),
    'ERR_INVALID_RETURN_VALUE'
  )
}

/** A descriptor that was closed, released, sent into a Node object, or made a socket. */
export function descriptorClosed(): Error {
  return withCode(new Error('The descriptor is closed or was given away'), 'ERR_DESCRIPTOR_CLOSED')
}

/** A descriptor of a kind that cannot become what was asked for. */
export function wrongKind(text: string): TypeError {
  return withCode(new TypeError(`${text.charAt(0).toUpperCase()}${text.slice(1)}`), 'ERR_INVALID_FD_TYPE')
}

/** A connection that was closed while it waited to be handed over. */
export function connectionClosed(): Error {
  return withCode(new Error('The connection was closed before it was handed over'), 'ERR_SOCKET_CLOSED')
}

/** Something that was received and does not keep to the protocol. */
export function protocolError(text: string): SystemError {
  return receivingError('EPROTO', text)
}

/** A message of which no value could be made. */
export function undecodable(data: Uint8Array, cause: unknown): SystemError {
  return Object.assign(receivingError('EPROTO', 'a message could not be decoded', cause), { data })
}

/** A message that was received and is larger than is accepted. */
export function tooLarge(text: string): SystemError {
  return receivingError('EMSGSIZE', `a message has ${text} are accepted`)
}

function receivingError(code: 'EPROTO' | 'EMSGSIZE', text: string, cause?: unknown): SystemError {
  const error = new Error(`${code}: ${text}, recvmsg`, cause === undefined ? undefined : { cause })
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'recvmsg' })
}

/** Something that was asked for and did not come in time. */
export function timedOut(milliseconds: number, syscall = 'request'): SystemError {
  const error = new Error(`ETIMEDOUT: no answer within ${milliseconds} ms, ${syscall}`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall })
}

/** A request whose answer nobody waits for any more. */
export function requestCancelled(): Error {
  return withCode(new Error('The other end does not wait for the reply any more'), 'ABORT_ERR')
}

/** A descriptor that the other end of a Node channel could not receive, however often it was sent. */
export function notReceived(): Error {
  return withCode(
    new Error('The other end could not receive the descriptor: its table is full, or a security module refused it'),
    'ERR_HANDLE_NOT_RECEIVED'
  )
}

/** A request to a channel that answers none. */
export function noHandler(): Error {
  return withCode(new Error('The other end answers no requests: it has no handler'), 'ERR_NO_HANDLER')
}

/** A worker that has ended before it was ready to serve. */
export function workerFailed(command: string, { code, signal }: { code: number | null; signal: string | null }): Error {
  const how = signal === null ? `with code ${code}` : `by ${signal}`
  return Object.assign(
    withCode(new Error(`A worker has ended ${how} before it was ready: ${command}`), 'ERR_WORKER_FAILED'),
    { exitCode: code, signal }
  )
}

/** A call on a superserver that is closed. */
export function superserverClosed(): Error {
  return withCode(new Error('The superserver is closed'), 'ERR_SERVER_CLOSED')
}

/** A process that has not become ready to serve in the place of another one. */
export function notReadyInTime(milliseconds: number): SystemError {
  const error = new Error(`ETIMEDOUT: the successor was not ready within ${milliseconds} ms, takeover`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall: 'takeover' })
}

/** A process that listens and may not be dealt with. */
export function untrusted(path: string, uid: number): SystemError {
  return denied(`what listens there is of user ${uid}, who is not allowed`, path)
}

/** A process that has connected and may not. */
export function notAllowed(path: string, uid: number): SystemError {
  return denied(`user ${uid} is not allowed there`, path)
}

function denied(text: string, address: string): SystemError {
  const error = new Error(`EACCES: ${text}, connect ${inspect(address)}`)
  return Object.assign(error, { code: 'EACCES', errno: -constants.errno.EACCES, syscall: 'connect', address })
}

/** What a store refuses. */
export function storeError(
  code: 'EACCES' | 'EDQUOT' | 'EEXIST' | 'ENOENT' | 'ENOSPC' | 'EPERM',
  text: string,
  name: string
) {
  const error = new Error(`${code}: ${text}, store ${inspect(name)}`)
  return Object.assign(error, { code, errno: -constants.errno[code], syscall: 'store' })
}

/** A call on a store that is closed, or that was closed while it waited. */
export function storeClosed(): Error {
  return withCode(new Error('The store is closed'), 'ERR_SOCKET_CLOSED')
}

/** A call on a takeover that is closed, or that came at a time when it means nothing. */
export function takeoverState(text: string): Error {
  return withCode(new Error(text), 'ERR_INVALID_STATE')
}

/** A call of a worker's in a process that is none. */
export function notAWorker(): Error {
  return withCode(
    new Error('This process is no worker of a superserver, or its channel has been taken already'),
    'ERR_INVALID_STATE'
  )
}

/** A worker on a runtime whose sockets are made of no descriptor. */
export function noSockets(): Error {
  return withCode(
    new Error("Bun's net.Socket is made of no descriptor: run workers on Node or Deno"),
    'ERR_UNSUPPORTED_PLATFORM'
  )
}

/** A variable of the environment that says nothing which can be taken. `accepted` ends the sentence "must be …". */
export function invalidVariable(variable: string, accepted: string, value: string): SystemError {
  const error = new Error(`EINVAL: the variable ${variable} must be ${accepted}. Received ${inspect(value)}, getenv`)
  return Object.assign(error, { code: 'EINVAL', errno: -constants.errno.EINVAL, syscall: 'getenv' })
}

/** A descriptor that the environment tells of and that cannot be taken over. */
export function notPassed(errno: number, fd: number, count: number): SystemError {
  const { name: code } = describeErrno(-errno)
  const why =
    code === 'EEXIST' ? 'is owned by fdpass already' : code === 'EBADF' ? 'is not open' : 'cannot be taken over'
  const error = new Error(`${code}: ${fd}, one of the ${count} descriptors that LISTEN_FDS tells of, ${why}, fcntl`)
  return Object.assign(error, { code, errno, syscall: 'fcntl' })
}

/** A service manager in another machine. */
export function noVsock(address: string): SystemError {
  const text = `NOTIFY_SOCKET is ${inspect(address)}, and AF_VSOCK is not supported: only paths and abstract addresses are`
  const error = new Error(`EAFNOSUPPORT: ${text}, socket`)
  return Object.assign(error, { code: 'EAFNOSUPPORT', errno: -constants.errno.EAFNOSUPPORT, syscall: 'socket' })
}

/** A call in a Worker that only the main thread can make. */
export function inWorker(call: string): Error {
  return withCode(
    new Error(
      `${call}() is the main thread's: a Worker has a copy of the environment, from which nobody removes anything`
    ),
    'ERR_INVALID_STATE'
  )
}

// A package with a binary is published for each; package.json's napi.targets are the same.
const platforms = 'linux-x64-gnu linux-arm64-gnu linux-x64-musl linux-arm64-musl darwin-x64 darwin-arm64 freebsd-x64'

/** A platform whose kernel passes no descriptors, or for which no binary could be loaded: the loader's failure tells why. */
export function unsupportedPlatform(failure: unknown): Error {
  const reason =
    process.platform === 'win32' ? "Windows' Unix domain sockets carry no descriptors" : binaryMissing(failure)
  return withCode(new Error(`fdpass does not work here: ${reason}`, { cause: failure }), 'ERR_UNSUPPORTED_PLATFORM')
}

function binaryMissing(failure: unknown): string {
  const platform = `${process.platform}-${process.arch}${libc()}`
  const source =
    `in a check-out of fdpass, \`npm run build:native\` builds one, whose path the environment's ` +
    'NAPI_RS_NATIVE_LIBRARY_PATH tells'
  if (!platforms.split(' ').includes(platform)) {
    return `there is no binary for ${platform}, only for ${platforms.replaceAll(' ', ', ')}; ${source}`
  }
  if (failure instanceof Error && /["']#binding["']/.test(failure.message)) {
    return "its binary cannot be found from within a bundle: leave fdpass outside (with esbuild `external: ['fdpass']`)"
  }
  // The loader tells of each try in the cause of the one after it.
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
  report.excludeNetwork = true // it would look the addresses of sockets up
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  return header !== undefined && header.glibcVersionRuntime === undefined ? '-musl' : '-gnu'
}

const controlErrors = [
  ['ERR_CONTROL_TRUNCATED', 'Descriptors were lost: the descriptor table is full, or a security module refused one'],
  ['ERR_TOO_MANY_DESCRIPTORS', 'The message carried more descriptors than are accepted'],
  ['ERR_UNEXPECTED_CONTROL', 'The message carried a control message that was not asked for']
] as const

/** The outcomes of a receive that `controlError` tells apart; the third is an unexpected control message. */
export const TRUNCATED = 1
export const TOO_MANY = 2

/** Whether an error is that of a message whose descriptors could not be delivered. */
export function isControlError(error: unknown): error is ControlError {
  return error instanceof Error && 'code' in error && controlErrors.some(([code]) => code === error.code)
}

/** What became of a message whose descriptors could not be delivered. */
export function controlError(outcome: number, data: Uint8Array): ControlError {
  const [code, text] = controlErrors[outcome - 1]!
  return Object.assign(new Error(`${text}. All its descriptors are closed; its bytes are in \`data\``), { code, data })
}

/**
 * A rejection with the stack of who awaits.
 *
 * An error made in a callback of the event loop knows no caller. V8 finds the awaiting functions where an error is made
 * in a microtask whose promise they await: resolve the waiting promise with this one. That takes effect a microtask
 * later, and so the error has to be made after the second one.
 */
export async function rejection(error: () => unknown): Promise<never> {
  await undefined
  await undefined
  throw error()
}
