import { isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { invalidValue } from '../base/errors.ts'
import { MAX_INT } from '../base/validate.ts'
import { addressOf } from './socket-address.ts'

/** A parsed listen address. */
export type ListenAddress =
  /** `host` is undefined for every address of this machine: `'tcp:PORT'` or `'tcp:*:PORT'`. */
  | { readonly kind: 'tcp' | 'udp'; readonly host: string | undefined; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }

/** A form of an address: its kind, or a path without a prefix. */
type Form = ListenAddress['kind'] | 'path'

const forms: Readonly<Record<Form, string>> = {
  tcp: "'tcp:HOST:PORT'",
  udp: "'udp:HOST:PORT'",
  unix: "'unix:PATH'",
  fd: "'fd:N'",
  path: 'a path'
}

/**
 * Parses `'tcp:HOST:PORT'`, `'udp:HOST:PORT'`, `'unix:PATH'`, `'fd:N'`, or a path alone.
 *
 * @param argument the argument's path, for errors
 * @param value the address
 * @param accepted the accepted forms
 * @param syscall the system call that an ENAMETOOLONG error names
 * @throws ERR_INVALID_ARG_VALUE, with `argument` and `reason`; `ENAMETOOLONG` for a path that is too long
 */
export function parseListenAddress(
  argument: string,
  value: string,
  accepted: readonly Form[],
  syscall = 'bind'
): ListenAddress {
  const form = accepted.find((prefix) => prefix !== 'path' && value.startsWith(`${prefix}:`)) ?? 'path'
  const address = accepted.includes(form) ? parseForm(form, argument, value, syscall) : undefined
  if (address !== undefined) return address
  const all = accepted.map((each) => forms[each])
  const last = all.pop()!
  const either = all.length === 0 ? last : `${all.join(', ')} or ${last}`
  throw invalidValue(argument, `must be ${either}, an IPv6 address in brackets. Received '${value}'`)
}

function parseForm(form: Form, argument: string, value: string, syscall: string): ListenAddress | undefined {
  const rest = form === 'path' ? value : value.slice(form.length + 1)
  switch (form) {
    case 'tcp':
    case 'udp':
      return parseInternet(form, rest)
    case 'fd':
      return parseFd(rest)
    default:
      addressOf(argument, rest, syscall)
      if (isAbsolute(rest) || rest.startsWith('\0')) return { kind: 'unix', path: rest }
      throw invalidValue(argument, `must have an absolute path or an abstract address. Received '${value}'`)
  }
}

function parseFd(rest: string): ListenAddress | undefined {
  const fd = Number(rest)
  return /^\d+$/.test(rest) && fd <= MAX_INT ? { kind: 'fd', fd } : undefined
}

function parseInternet(kind: 'tcp' | 'udp', rest: string): ListenAddress | undefined {
  const parts = /^(?:(?:\[(?<ipv6>[^\]]+)\]|(?<host>[^:[\]]+)):)?(?<port>\d{1,5})$/.exec(rest)?.groups
  const port = Number(parts?.port)
  if (parts === undefined || port > 65_535 || (parts.ipv6 !== undefined && isIP(parts.ipv6) !== 6)) return undefined
  return { kind, host: parts.host === '*' ? undefined : (parts.host ?? parts.ipv6), port }
}

/** Returns the text of an Internet listen address: `'tcp:[::1]:80'`. */
export function formatInternet(kind: 'tcp' | 'udp', host: string | undefined, port: number): string {
  if (host === undefined) return `${kind}:${port}`
  return `${kind}:${isIP(host) === 6 ? `[${host}]` : host}:${port}`
}
