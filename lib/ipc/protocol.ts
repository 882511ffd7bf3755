// Node's protocol: lines of JSON. An object whose `cmd` begins with NODE_ is for Node itself (lib/internal/child_process.js).
import { invalidType, invalidValue } from '../base/internal.ts'
import { wrongKind, wrapFd, putFd } from '../descriptor/internal.ts'
import type { Descriptor, Kind } from '../descriptor/index.ts'
import { duplicateShared, native } from '../native/internal.ts'
import { internetAddressOf } from '../address/internal.ts'

/** A message between the two Node runtimes, which programs never receive. */
export interface InternalMessage {
  readonly cmd: string
  readonly type?: unknown
  readonly msg?: unknown
  readonly key?: unknown
}

export function isInternal(value: unknown): value is InternalMessage {
  if (typeof value !== 'object' || value === null || !('cmd' in value)) return false
  return typeof value.cmd === 'string' && /^NODE_./s.test(value.cmd)
}

/** The class that Node creates for a received handle, by the kind of its descriptor. */
const handleTypes: Partial<Record<Kind, string>> = {
  tcp: 'net.Socket',
  'unix-stream': 'net.Socket',
  'tcp-listener': 'net.Server',
  'unix-listener': 'net.Server',
  udp: 'dgram.Socket'
}

/** Duplicates a source, because the caller may close it before it is sent. */
export function duplicateOf(source: unknown): Descriptor {
  const [fd] = duplicateShared(putFd(source))
  return wrapFd(fd!)
}

/** Returns the properties by which the receiving Node creates an object from the descriptor. */
function handleProperties(descriptor: Descriptor): object {
  const { kind } = descriptor
  const type = handleTypes[kind]
  // libuv receives streams and UDP sockets only. It drops other sockets, and other descriptors end Node by a failed assertion.
  if (type === undefined || (kind === 'unix-listener' && native.socketType(descriptor.fd) !== 'stream')) {
    throw wrongKind(
      `Node's channel carries TCP and Unix streams, their listeners and UDP sockets, and not descriptors of kind '${kind}'`
    )
  }
  if (type !== 'dgram.Socket') return { type }
  const address = internetAddressOf(descriptor.fd)
  return { type, dgramType: address?.family === 'IPv6' ? 'udp6' : 'udp4' }
}

/** Encodes a program's message, with its descriptor if it has one. */
export function encodeMessage(message: unknown, descriptor: Descriptor | undefined): Buffer {
  if (!['string', 'number', 'boolean', 'object'].includes(typeof message)) {
    throw invalidType('message', 'one of type string, object, number, or boolean', message)
  }
  if (isInternal(message))
    throw invalidValue('message', "must not have a 'cmd' that begins with NODE_, which Node reserves for itself")
  const text = JSON.stringify(
    descriptor === undefined ? message : { cmd: 'NODE_HANDLE', ...handleProperties(descriptor), msg: message }
  ) as string | undefined
  if (text === undefined) throw invalidValue('message', 'has no representation in JSON')
  return Buffer.from(`${text}\n`)
}

/** Encodes a message to the peer's Node. */
export function encodeInternal(message: InternalMessage & Readonly<Record<string, unknown>>): string {
  return `${JSON.stringify(message)}\n`
}

/** Returns the program's message in a `NODE_HANDLE`. Node wraps a message again each time it sends it again. */
export function unwrap({ msg }: InternalMessage): unknown {
  let message = msg
  while (isInternal(message) && message.cmd === 'NODE_HANDLE') message = message.msg
  return message
}
