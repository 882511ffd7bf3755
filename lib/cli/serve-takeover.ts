import { type ListenSource, type ServiceOptions, type Superserver, superserve } from 'fdpass/superserver'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { SignalError } from './signals.ts'

/** A service, and where it meets the one before and the one after it. */
export interface TakeoverService {
  readonly path: string
  readonly service: ServiceOptions
  readonly sources: readonly ListenSource[]
}

/** A superserver, and when another one serves in its place. */
export interface Serving {
  readonly server: Superserver
  readonly superseded?: Promise<unknown>
}

/** Serves in the place of whoever listens on the same, without a connection being refused, until another one does so in this one's. */
export async function serveWithTakeover(
  { path, service, sources }: TakeoverService,
  signal: AbortSignal
): Promise<Serving> {
  const listen = Object.fromEntries(sources.map((source, place) => [place, listenerOf(source, service)]))
  const place = await takeover({ path, listen, signal })
  const listeners = Object.values(place.listeners)
  try {
    const server = await superserve({ ...service, listen: listeners, signal, beforeAccept: place.ready })
    void serveUntilSuperseded(server, place)
    return { server, superseded: place.superseded }
  } catch (error) {
    place.close()
    throw error
  } finally {
    for (const listener of listeners) listener.closeSync()
  }
}

/** Ends when another one serves, and what is open is finished; or by a signal, as the superserver does. */
async function serveUntilSuperseded(server: Superserver, place: Takeover): Promise<void> {
  let signalError: SignalError | undefined
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    // Once, and not on: the superserver ends the process by the signal where nobody else listens to it.
    process.once(signal, () => {
      place.close()
      signalError = new SignalError(signal)
    })
  }
  await place.superseded
  await server.close()
  if (signalError !== undefined) throw signalError
}

type Listener = NonNullable<TakeoverOptions['listen']>[string]

/** What is listened on, with what the service says of all. */
function listenerOf(source: ListenSource, { backlog, socketMode: mode }: ServiceOptions): Listener {
  const [, kind, rest] = typeof source === 'string' ? (/^(tcp|unix):(.*)$/s.exec(source) ?? []) : []
  const { 1: host, 2: port } = /^(?:(.*):)?(\d+)$/.exec(rest ?? '') ?? []
  if (kind === 'unix' && (backlog ?? mode) !== undefined) return { path: rest!, backlog, mode }
  if (kind === 'tcp' && backlog !== undefined && port !== undefined) {
    return { host: host?.replace(/^\[(.*)\]$/, '$1'), port: Number(port), backlog }
  }
  return source
}
