import { isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { invalidValue } from '../base/errors/argument.ts'
import { MAX_INT } from '../base/validate.ts'
import { addressOf } from './unix-address.ts'

/** A parsed listen address. */
export type ListenAddress =
  /** `host` is undefined for every address of this machine: `'tcp:PORT'` or `'tcp:*:PORT'`. */
  | { readonly kind: 'tcp' | 'udp'; readonly host: string | undefined; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }

type Kind = ListenAddress['kind']

const forms: Readonly<Record<Kind, string>> = {
  tcp: "'tcp:HOST:PORT'",
  udp: "'udp:HOST:PORT'",
  unix: "'unix:PATH'",
  fd: "'fd:N'"
}

/**
 * Parses `'tcp:HOST:PORT'`, `'udp:HOST:PORT'`, `'unix:PATH'` or `'fd:N'`.
 *
 * @param argument the argument's path, for errors
 * @param value the address
 * @param kinds the accepted kinds
 * @param syscall the system call that an ENAMETOOLONG error names
 * @throws ERR_INVALID_ARG_VALUE, with `argument` and `reason`; `ENAMETOOLONG` for a path that is too long
 */
export function parseListenAddress(
  argument: string,
  value: string,
  kinds: readonly Kind[],
  syscall = 'bind'
): ListenAddress {
  const kind = kinds.find((scheme) => value.startsWith(`${scheme}:`))
  const rest = value.slice((kind?.length ?? 0) + 1)
  const address =
    kind === undefined
      ? undefined
      : kind === 'unix'
        ? parseUnix(argument, rest, syscall)
        : kind === 'fd'
          ? parseFd(rest)
          : parseInternet(kind, rest)
  if (address !== undefined) return address
  throw invalidValue(argument, `must be ${formsOf(kinds)}, an IPv6 address in brackets. Received '${value}'`)
}

function formsOf(kinds: readonly Kind[]): string {
  const all = kinds.map((kind) => forms[kind])
  const last = all.pop()!
  return all.length === 0 ? last : `${all.join(', ')} or ${last}`
}

function parseUnix(argument: string, path: string, syscall: string): ListenAddress {
  addressOf(argument, path, syscall)
  if (isAbsolute(path) || path.startsWith('\0')) return { kind: 'unix', path }
  throw invalidValue(argument, `must have an absolute path or an abstract address. Received 'unix:${path}'`)
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
