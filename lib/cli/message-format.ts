import { readlinkSync } from 'node:fs'
import type { Credentials, Descriptor, Message } from 'fdpass'
import { displayAddress } from './errors.ts'

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

/** Returns a message as a line of JSON. */
export function formatJson(message: Message, sender: Credentials | undefined): string {
  const text = decodeUtf8(message.data)
  const { pid = null, uid = null, gid = null } = sender ?? {}
  return JSON.stringify({
    ...(text === undefined ? { base64: Buffer.from(message.data).toString('base64') } : { data: text }),
    ...(message.size > message.data.length && { size: message.size }),
    fds: message.fds.map(describe),
    sender: { pid, uid, gid },
    ...(typeof message.address === 'string' && { address: displayAddress(message.address) })
  })
}

/** Returns a message as text for a terminal. */
export function formatText(message: Message, sender: Credentials | undefined): string {
  const text = decodeUtf8(message.data)
  const data = text === undefined ? `base64 ${Buffer.from(message.data).toString('base64')}` : quote(text)
  const from = sender === undefined ? 'unknown' : `pid ${sender.pid ?? 'unknown'}, uid ${sender.uid}, gid ${sender.gid}`
  const fds = message.fds.map(describe).map(({ kind, path, address }) => {
    const where = path ?? address
    return `\n  ${kind}${where === undefined ? '' : ` ${quote(where)}`}`
  })
  return `${data} from ${from}${fds.join('')}`
}

const escape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

/** Returns a text in quotes, without control characters that would affect a terminal. */
function quote(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, escape)
}
