import { once } from 'node:events'
import { type Stats, fstatSync, readlinkSync } from 'node:fs'
import type { Credentials, Descriptor, Message } from 'fdpass'
import { CliError, displayAddress, jsonOf } from './errors.ts'

/** The number of bytes that are read from a file at a time. */
export const CHUNK_SIZE = 262_144

/** Copies a stream to standard output, with backpressure. */
export async function copyToStdout(input: NodeJS.ReadableStream): Promise<void> {
  for await (const chunk of input) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain')
  }
}

/** Throws if a file is standard output itself: copying it to its own end would never finish. */
export function checkIsNotStdout(fd: number): void {
  const [input, output] = [statusOf(fd), statusOf(1)]
  if (input === undefined || output === undefined) return
  if (input.isFile() && input.dev === output.dev && input.ino === output.ino && input.size > 0) {
    throw new CliError('Input file is output file')
  }
}

/** Returns the status of a descriptor; undefined if its file system refuses fstat(2), or it is closed. */
function statusOf(fd: number): Stats | undefined {
  try {
    return fstatSync(fd)
  } catch {
    return undefined
  }
}

/** Returns a descriptor's kind, and its path or address if known. */
function describe(descriptor: Descriptor): { kind: string; path?: string; address?: string } {
  const { kind } = descriptor
  const { address } = descriptor
  if (typeof address === 'string') return { kind, address: displayAddress(address) }
  if (address !== null) {
    const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
    return { kind, address: `${host}:${address.port}` }
  }
  try {
    const path = readlinkSync(`/proc/self/fd/${descriptor.fd}`)
    return path.startsWith('/') ? { kind, path } : { kind }
  } catch {
    return { kind } // no /proc
  }
}

/** Returns data as text; undefined if it is not valid UTF-8. */
export function decodeUtf8(data: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
  } catch {
    return undefined
  }
}

/** Returns a sender's ids, null for those that identify no user. */
function knownIds({ pid, uid, gid, unknownUid, unknownGid }: Credentials) {
  return { pid, uid: unknownUid === true ? null : uid, gid: unknownGid === true ? null : gid }
}

function describeSender(sender: Credentials): string {
  return Object.entries(knownIds(sender))
    .map(([name, id]) => `${name} ${id ?? 'unknown'}`)
    .join(', ')
}

/** Returns a message as a line of JSON. */
export function formatJson(message: Message, sender: Credentials | undefined): string {
  const text = decodeUtf8(message.data)
  return jsonOf({
    ...(text === undefined ? { base64: message.data.toString('base64') } : { data: text }),
    ...(message.size > message.data.length && { size: message.size }),
    fds: message.fds.map(describe),
    sender: sender === undefined ? { pid: null, uid: null, gid: null } : knownIds(sender),
    ...(typeof message.address === 'string' && { address: displayAddress(message.address) })
  })
}

/** Returns a message as text for a terminal. */
export function formatText(message: Message, sender: Credentials | undefined): string {
  const text = decodeUtf8(message.data)
  const data = text === undefined ? `base64 ${message.data.toString('base64')}` : jsonOf(text)
  const from = sender === undefined ? 'unknown' : describeSender(sender)
  const fds = message.fds.map(describe).map(({ kind, path, address }) => {
    const where = path ?? address
    return `\n  ${kind}${where === undefined ? '' : ` ${jsonOf(where)}`}`
  })
  return `${data} from ${from}${fds.join('')}`
}
