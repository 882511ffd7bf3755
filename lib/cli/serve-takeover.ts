import { type ListenSource, type ServiceOptions, type Superserver, superserve } from 'fdpass/superserver'
import { type Takeover, takeover } from 'fdpass/takeover'
import { SignalError } from './signals.ts'

/** A service, and the address at which predecessor and successor connect. */
export interface TakeoverService {
  readonly path: string
  readonly service: ServiceOptions
  readonly sources: readonly ListenSource[]
}

/** A running superserver; `superseded` resolves when a successor serves. */
export interface Serving {
  readonly server: Superserver
  readonly superseded?: Promise<unknown>
}

/** Takes over from the process at `path`, if there is one, and serves until a successor takes over. No connection is refused. */
export async function serveWithTakeover(
  { path, service, sources }: TakeoverService,
  signal: AbortSignal
): Promise<Serving> {
  const { backlog, socketMode: mode, socketOwner: owner, socketGroup: group } = service
  const listen = Object.fromEntries(sources.map((source, place) => [place, { source, backlog, mode, owner, group }]))
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

/** Closes the server when a successor serves, or at a signal. Open connections are drained. */
async function serveUntilSuperseded(server: Superserver, place: Takeover): Promise<void> {
  let signalError: SignalError | undefined
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    // once() and not on(): the superserver raises the signal again only if no other listener is left.
    process.once(signal, () => {
      place.close()
      signalError = new SignalError(signal)
    })
  }
  await place.superseded
  await server.close()
  if (signalError !== undefined) throw signalError
}
