import { fileURLToPath } from 'node:url'
import { MAX_INT, integer, invalidType, invalidValue, optionsOf, signalOf } from '../base/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { ConfigFile } from './config-file.ts'
import { type Settings, settingsOf } from './settings.ts'
import { Superserver, type SuperserverOptions } from './superserver.ts'
import type { ServiceOptions } from './service-options.ts'

/** Several services, by name. */
export interface Services {
  /** The options of each service, by its name. */
  services: Readonly<Record<string, ServiceOptions>>
}

/** Options of {@link superserve}, with one service or several. */
export type SuperserveOptions = SuperserverOptions & (ServiceOptions | Services)

/** The name of a service without a name. */
const ONLY = 'service'

/**
 * Listens on sockets, and passes the connections to other processes: to a program for each connection, as inetd does, or to workers
 * without privileges, as nginx does.
 *
 * A native thread accepts connections, chooses the worker and passes the descriptor; no JavaScript runs for a connection. A connection
 * belongs to a worker when the worker has acknowledged it. If the worker dies before, the connection goes to another worker. Workers
 * that die are restarted. When this process exits, the workers' channels end, and so do the workers.
 *
 * @param options the options of one service, or `services` by name; with `signals`, `notify`, `signal` and `beforeAccept`. Or the path
 *   or URL of a JSON file with these options, of at most 1 MiB: a regular file, in whose folder relative paths begin, and which a reload
 *   reads again; or a pipe, a socket or a terminal, such as `/dev/stdin`, which is read once, with paths relative to the working directory
 * @param more `signals`, `notify`, `readTimeout`, `signal` and `beforeAccept`, with a file
 * @returns resolves to the superserver when all listeners are open, all workers are ready, and `beforeAccept` has resolved
 *
 *   Rejects, and leaves nothing open, with
 *   - `EACCES`, `EADDRINUSE` and other errors of a listener
 *   - `ENOENT`, `EACCES` and other errors of a program that cannot be executed; `syscall` is the call that failed, such as `setuid`
 *     with `EPERM`
 *   - ERR_WORKER_FAILED if a worker exits before it is ready
 *   - ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE or ERR_OUT_OF_RANGE; a SyntaxError for a file that is not JSON
 *   - AbortError; ERR_UNSUPPORTED_PLATFORM, also on Bun for a `module` that receives connections, and with `preload` on Bun and Deno
 *
 * @example
 * ```js
 * import { createServer } from 'node:http'
 * import { isWorker, serve, superserve } from 'fdpass/superserver'
 *
 * if (isWorker) {
 *   await serve(createServer((request, response) => response.end('served by a worker')))
 * } else {
 *   const server = await superserve({ listen: 'tcp:127.0.0.1:0', module: import.meta.url, workers: 2 })
 *   const { port } = server.addresses[0].address
 *   console.log(await (await fetch(`http://127.0.0.1:${port}`)).text()) // served by a worker
 *   await server.close()
 * }
 * ```
 */
export async function superserve(
  options: SuperserveOptions | string | URL,
  more?: SuperserverOptions
): Promise<Superserver> {
  openReactor()
  if (typeof options === 'string' || options instanceof URL) {
    const given = optionsOf(more)
    const file = new ConfigFile(options instanceof URL ? fileURLToPath(options) : options)
    const content = await file.read(signalOf(given))
    const own = { ...ownOptionsOf(content), ...given }
    if (own.readTimeout !== undefined) file.timeout = integer('options.readTimeout', own.readTimeout, 1, MAX_INT)
    const read = async (signal: AbortSignal) => settingsOfAll(await file.read(signal), file.folder)
    return Superserver.start(settingsOfAll(content, file.folder), read, own)
  }
  if (optionsOf<object>(options) === undefined) throw invalidType('options', 'of type object or string', options)
  const settings = settingsOfAll(options, process.cwd())
  return Superserver.start(settings, () => Promise.resolve(settings), options)
}

/** Returns the options of a file that concern the superserver and not its services. */
function ownOptionsOf({ signals, notify: notifies, readTimeout }: SuperserverOptions): SuperserverOptions {
  return {
    ...(signals !== undefined && { signals }),
    ...(notifies !== undefined && { notify: notifies }),
    ...(readTimeout !== undefined && { readTimeout })
  }
}

/** Validates the options of all services. */
function settingsOfAll(options: object, folder: string): readonly Settings[] {
  const {
    signals: _signals,
    notify: _notify,
    signal: _signal,
    beforeAccept: _before,
    readTimeout: _timeout,
    ...rest
  } = options as SuperserverOptions
  if (!('services' in rest)) return [settingsOf(ONLY, rest, 'options', folder)]
  const { services, ...others } = rest as Services
  const [other] = Object.keys(others)
  if (other !== undefined)
    throw invalidValue(`options.${other}`, "is an option of a service, or none: 'services' stands alone")
  if (typeof services !== 'object' || services === null)
    throw invalidType('options.services', 'of type object', services)
  const all = Object.entries(services)
  if (all.length === 0) throw invalidValue('options.services', 'must name a service at least')
  return all.map(([name, service]) => settingsOf(name, service, `options.services.${name}`, folder))
}
