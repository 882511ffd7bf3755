import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { invalidType, invalidValue, optionsOf } from '../base/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import type { ServiceOptions } from './service-options.ts'
import { type Settings, settingsOf } from './settings.ts'
import { Superserver, type SuperserverOptions } from './superserver.ts'

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
 *   or URL of a JSON file with these options, whose relative paths begin in the file's folder
 * @param more `signals`, `notify`, `signal` and `beforeAccept`, with a file
 * @returns resolves to the superserver when all listeners are open, all workers are ready, and `beforeAccept` has resolved
 *
 *   Rejects, and leaves nothing open, with
 *   - `EACCES`, `EADDRINUSE` and other errors of a listener
 *   - `ENOENT`, `EACCES` and other errors of a program that cannot be executed; `syscall` is the call that failed, such as `setuid`
 *     with `EPERM`
 *   - ERR_WORKER_FAILED if a worker exits before it is ready
 *   - ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE or ERR_OUT_OF_RANGE; a SyntaxError for a file that is not JSON
 *   - AbortError; ERR_UNSUPPORTED_PLATFORM
 */
export async function superserve(
  options: SuperserveOptions | string | URL,
  more?: SuperserverOptions
): Promise<Superserver> {
  openReactor()
  if (typeof options === 'string' || options instanceof URL) {
    const file = options instanceof URL ? fileURLToPath(options) : options
    return Superserver.start(() => readSettings(file), { ...(await readOptions(file)), ...optionsOf(more) })
  }
  if (optionsOf<object>(options) === undefined) throw invalidType('options', 'of type object or string', options)
  const settings = settingsOfAll(options, process.cwd())
  return Superserver.start(() => Promise.resolve(settings), options)
}

async function readJson(file: string): Promise<object> {
  const content: unknown = JSON.parse(await readFile(file, 'utf8'))
  if (typeof content !== 'object' || content === null) throw invalidType(file, 'a JSON object', content)
  return content
}

async function readSettings(file: string): Promise<readonly Settings[]> {
  return settingsOfAll(await readJson(file), dirname(resolve(file)))
}

async function readOptions(file: string): Promise<SuperserverOptions> {
  const { signals, notify: notifies } = (await readJson(file)) as SuperserverOptions
  return { ...(signals !== undefined && { signals }), ...(notifies !== undefined && { notify: notifies }) }
}

/** Validates the options of all services. */
function settingsOfAll(options: object, folder: string): readonly Settings[] {
  const {
    signals: _signals,
    notify: _notify,
    signal: _signal,
    beforeAccept: _before,
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
