import { isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { addressOf } from '../address/internal.ts'
import { invalidType, invalidValue } from '../base/internal.ts'

/** What can be connected to, or listened on. */
export type Service =
  | { readonly name: string; readonly path: string }
  | { readonly name: string; readonly host: string; readonly port: number }

/** The service that an argument names: `tcp:HOST:PORT`, `unix:PATH`, or a path alone. Its name is the same for the same one. */
export function serviceOf(argument: string, value: unknown, syscall: string): Service {
  if (typeof value !== 'string') throw invalidType(argument, 'of type string', value)
  if (value.startsWith('tcp:')) return tcpService(argument, value)
  const path = value.startsWith('unix:') ? value.slice('unix:'.length) : value
  addressOf(argument, path, syscall)
  if (!isAbsolute(path) && !path.startsWith('\0')) {
    throw invalidValue(
      argument,
      `must be 'tcp:HOST:PORT', or an absolute path or abstract address. Received '${value}'`
    )
  }
  return { name: path, path }
}

function tcpService(argument: string, value: string): Service {
  const parts = /^tcp:(?:\[(?<ipv6>[^\]]+)\]|(?<host>[^:[\]]+)):(?<port>\d{1,5})$/.exec(value)?.groups
  const host = parts?.host ?? parts?.ipv6
  const port = Number(parts?.port)
  if (host === undefined || port > 65_535 || (parts?.ipv6 !== undefined && isIP(host) !== 6)) {
    throw invalidValue(argument, `must be 'tcp:HOST:PORT', an IPv6 address in brackets. Received '${value}'`)
  }
  return { name: `tcp:${host}:${port}`, host, port }
}
