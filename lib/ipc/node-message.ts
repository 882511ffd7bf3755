import { invalidType, invalidValue } from '../base/internal.ts'
import { wrongKind, wrapFd, putFd } from '../descriptor/internal.ts'
import type { Descriptor, Kind } from '../descriptor/index.ts'
import { systemError, fds, native } from '../native/internal.ts'
import { takeInternetAddress } from '../address/internal.ts'

/** What one end of a channel says to the other: what `process.send()` takes. */
export type NodeValue = string | number | boolean | object | null

/** What came over a {@link NodeChannel}: a value, and the descriptor that was sent with it. */
export class NodeMessage implements Disposable {
  /** The value, as JSON gives it back. */
  readonly message: unknown
  /** The handle that was sent with it, which is the receiver's to close; null where there was none. */
  readonly fd: Descriptor | null

  /** @internal */
  constructor(message: unknown, fd: Descriptor | null) {
    this.message = message
    this.fd = fd
  }

  /** Close the descriptor, if one came and is still open; for `using`. */
  [Symbol.dispose](): void {
    this.fd?.closeSync()
  }
}

/** What Node says to itself, and never tells the program: an object whose `cmd` begins with `NODE_`, and goes on. */
export interface Internal {
  readonly cmd: string
  readonly type?: unknown
  readonly msg?: unknown
  readonly key?: unknown
}

export function isInternal(value: unknown): value is Internal {
  if (typeof value !== 'object' || value === null || !('cmd' in value)) return false
  return typeof value.cmd === 'string' && /^NODE_./s.test(value.cmd)
}

/** The handle's class in the receiving process, by what the descriptor is. */
const types: Partial<Record<Kind, string>> = {
  tcp: 'net.Socket',
  'unix-stream': 'net.Socket',
  'tcp-listener': 'net.Server',
  'unix-listener': 'net.Server',
  udp: 'dgram.Socket'
}

/** The native code of the type 'stream'. */
const STREAM = 0

/** A duplicate of what is to be sent, as the source may be closed before its turn comes. */
export function duplicateOf(source: unknown): Descriptor {
  const code = native.duplicate(putFd(source))
  if (code < 0) throw systemError(code, 'fcntl')
  return wrapFd(fds[0]!)
}

/** What makes an object of a descriptor in the receiving process. */
function handleOf(descriptor: Descriptor): object {
  const { kind } = descriptor
  const type = types[kind]
  // libuv's reader knows streams and UDP. It drops other sockets, and of anything else Node makes a failed assertion.
  if (type === undefined || (kind === 'unix-listener' && native.socketType(descriptor.fd) !== STREAM)) {
    throw wrongKind(
      `a descriptor of kind '${kind}' cannot go over Node's channel: streams of TCP and Unix, their listeners, and UDP can`
    )
  }
  if (type !== 'dgram.Socket') return { type }
  const address = takeInternetAddress(native.internetAddress(descriptor.fd, 0))
  return { type, dgramType: address?.family === 'IPv6' ? 'udp6' : 'udp4' }
}

/** The line of a message. */
export function lineOf(message: unknown, descriptor: Descriptor | undefined): Buffer {
  if (!['string', 'number', 'boolean', 'object'].includes(typeof message)) {
    throw invalidType('message', 'one of type string, object, number, or boolean', message)
  }
  if (isInternal(message))
    throw invalidValue('message', "must have no 'cmd' that begins with NODE_, which Node keeps to itself")
  const text = JSON.stringify(
    descriptor === undefined ? message : { cmd: 'NODE_HANDLE', ...handleOf(descriptor), msg: message }
  ) as string | undefined
  if (text === undefined) throw invalidValue('message', 'is nothing in JSON')
  return Buffer.from(`${text}\n`)
}
