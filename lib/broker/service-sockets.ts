import { connect as connectTcp } from 'node:net'
import { bindListener, connect as connectUnix, type SocketType } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { wrapFd, putFd } from '../descriptor/internal.ts'
import { takeSocketFd } from '../socket/internal.ts'
import { duplicateShared, systemError } from '../native/internal.ts'
import { parseListenAddress, formatInternet } from '../address/internal.ts'
import { invalidType, invalidValue } from '../base/internal.ts'

/** An address to connect to or to listen on. Addresses of the same name are the same. */
export type ServiceAddress =
  | { readonly name: string; readonly path: string }
  | { readonly name: string; readonly host: string; readonly port: number }

/** Parses the address of a service: `tcp:HOST:PORT`, `unix:PATH`, or a path or abstract address alone. */
export function parseService(argument: string, value: unknown, syscall: string): ServiceAddress {
  if (typeof value !== 'string') throw invalidType(argument, 'of type string', value)
  const address = parseListenAddress(argument, value, ['tcp', 'unix', 'path'], syscall)
  if (address.kind === 'unix') return { name: address.path, path: address.path }
  if (address.kind !== 'tcp' || address.host === undefined) {
    throw invalidValue(argument, `must name a host: 'tcp:HOST:PORT'. Received '${value}'`)
  }
  const { host, port } = address
  return { name: formatInternet('tcp', host, port), host, port }
}

/** Connects to a service. The descriptor is in blocking mode. */
export async function connectService(service: ServiceAddress, signal: AbortSignal): Promise<Descriptor> {
  if ('path' in service) return connectToPath(service.path, signal)
  const { host, port } = service
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host, port, signal })
    socket.pause() // so that Node reads no data from it
    socket.once('error', (error: NodeJS.ErrnoException) => {
      // An AggregateError has one error for each address of the host, and no errno of its own.
      const first: NodeJS.ErrnoException = error instanceof AggregateError ? error.errors[0] : error
      const { errno = 0, syscall } = first
      reject(syscall === 'connect' ? systemError(errno, 'connect', service.name) : first)
    })
    socket.once('connect', () => {
      try {
        putFd(socket)
        const [fd] = duplicateShared(1)
        const descriptor = wrapFd(fd!)
        socket.destroy()
        try {
          descriptor.setBlocking(true)
        } catch (error) {
          descriptor.closeSync()
          throw error
        }
        resolve(descriptor)
      } catch (error) {
        socket.destroy()
        reject(error)
      }
    })
  })
}

/** Connects to the socket at a path, whatever its type. */
async function connectToPath(
  path: string,
  signal: AbortSignal,
  [type, ...others]: readonly SocketType[] = ['stream', 'dgram', 'seqpacket']
): Promise<Descriptor> {
  try {
    return wrapFd(takeSocketFd(await connectUnix(path, { type: type!, signal })))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPROTOTYPE' || others.length === 0) throw error
    return connectToPath(path, signal, others)
  }
}

/** Listens on a service. The descriptor is in blocking mode. */
export function listenService(
  service: ServiceAddress,
  backlog: number | undefined,
  mode: number | undefined
): Descriptor {
  if ('path' in service) return bindListener({ path: service.path, backlog, mode })
  const { host, port } = service
  return bindListener({ host, port, backlog })
}
