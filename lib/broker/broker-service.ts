import {
  Places,
  type InspectionArguments,
  inspected,
  inspection,
  uncloneable,
  optionsOf,
  invalidType,
  invalidValue
} from '../base/internal.ts'
import { Channel } from '../channel/index.ts'
import { refuse } from '../channel/internal.ts'
import { type ServiceConnection, ServiceConnections, serveConnections, tooManyConnections } from '../socket/internal.ts'
import { UnixServer, type UnixSocket } from '../socket/index.ts'
import { RequestHandler } from './request-handler.ts'
import { type BrokerPolicy, policyOf } from './policy.ts'
import { Roots } from './roots.ts'
import { parseService } from './service-sockets.ts'
import { type BrokerOffer, offerOf } from './settings.ts'
import { MAX_MESSAGE_BYTES } from './request-message.ts'

/** Options of {@link serveBroker}. */
export interface ServeBrokerOptions extends BrokerOffer {
  /** Authorizes each request, by the credentials of the process that made the connection. */
  allow: BrokerPolicy
  /**
   * The maximum number of connections (default 1,024, or half of the free descriptor table if that is less). If there are as many, the one
   * that has sent no request for longest is closed in favour of a new one, after a second; otherwise the new one is refused with `EAGAIN`.
   */
  maxConnections?: number | undefined
  /** The same for one user, except root and this process's user (default 128, or an eighth of the free descriptor table). */
  maxConnectionsPerUser?: number | undefined
}

/** The maximum number of requests of one connection that are handled concurrently. Further requests stay in its socket. */
const MAX_PENDING_REQUESTS = 64

/** A running broker: the result of {@link serveBroker}. */
export class BrokerService implements Disposable {
  /** @internal */
  protected readonly uncloneable = uncloneable
  readonly #listener: UnixServer
  readonly #roots: Roots
  readonly #handler: RequestHandler
  readonly #channels = new Places<Channel>()
  readonly #connections: ServiceConnections

  /** @internal */
  constructor(listener: UnixServer, roots: Roots, handler: RequestHandler, connections: ServiceConnections) {
    this.#connections = connections
    this.#listener = listener
    this.#roots = roots
    this.#handler = handler
    void serveConnections('broker', listener, (socket) => this.#serve(socket))
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('BrokerService', () => ({ listener: this.#listener }), args)
  }

  #serve(socket: UnixSocket): void {
    if (this.#listener.closed) {
      socket.close() // accepted just before close()
      return
    }
    let connection: ServiceConnection | undefined
    try {
      connection = this.#connections.admit(socket.peer(), () => socket.close())
      if (connection === undefined) return refuse(socket, tooManyConnections())
      const channel = new Channel(socket, {
        maxBytes: MAX_MESSAGE_BYTES,
        maxFds: 1,
        messages: false,
        maxPending: MAX_PENDING_REQUESTS
      })
      void this.#untilClosed(channel, connection)
      const admitted = connection
      this.#handler.serve(channel, (signal) => this.#connections.noteRequest(admitted, signal))
    } catch {
      if (connection !== undefined) this.#connections.remove(connection)
      socket.close() // the client has already disconnected
    }
  }

  async #untilClosed(channel: Channel, connection: ServiceConnection): Promise<void> {
    const place = this.#channels.add(channel)
    await channel.closed
    this.#channels.remove(channel, place)
    this.#connections.remove(connection)
    channel.close()
  }

  /** Closes the listener, the connections and the roots. Descriptors that clients received stay open. */
  close(): void {
    this.#listener.close()
    for (const channel of this.#channels) channel.close()
    this.#roots[Symbol.dispose]()
  }

  /** Closes the service, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * Opens files and sockets for other processes, with the rights of this process: the other end of {@link connectBroker}.
 *
 * The kernel reports the credentials of the process that made each connection. That process may have passed the connection
 * on to another one. The protocol is a channel with JSON messages, and every message is validated.
 *
 * While no descriptor is free to accept a connection, clients wait in the backlog, and one process warning reports it.
 *
 * @param listener a stream server. The service owns it from now on, and closes it
 * @param options `roots`, `directories`, `services`, `allow`, `openTimeout`, `maxConnections`, `maxConnectionsPerUser`
 * @returns the running service
 * @throws `ENOENT`, `ENOTDIR` or `EACCES` for a root; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE
 */
export function serveBroker(listener: UnixServer, options: ServeBrokerOptions): BrokerService {
  if (!(listener instanceof UnixServer)) throw invalidType('listener', 'an instance of UnixServer', listener)
  if (listener.type !== 'stream') throw invalidValue('listener', "must be of type 'stream'")
  const given = optionsOf<Partial<ServeBrokerOptions>>(options) ?? {}
  const policy = policyOf('options.allow', given.allow)
  const { roots, services, directories, openTimeout } = offerOf(given)
  const connections = new ServiceConnections(given)
  const opened = new Roots(roots, directories)
  const known = services.map((name, index) => parseService(`options.services[${index}]`, name, 'connect'))
  const handler = new RequestHandler(opened, known, policy, openTimeout)
  return new BrokerService(listener, opened, handler, connections)
}
