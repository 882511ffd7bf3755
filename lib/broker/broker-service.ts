import { optionsOf, invalidType, invalidValue } from '../base/internal.ts'
import { Channel } from '../channel/index.ts'
import { serveConnections } from '../socket/internal.ts'
import { UnixServer, type UnixSocket } from '../socket/index.ts'
import { RequestHandler } from './request-handler.ts'
import { type BrokerPolicy, policyOf } from './policy.ts'
import { Roots } from './roots.ts'
import { parseService } from './service-address.ts'
import { type BrokerOffer, rootsOf, servicesOf } from './settings.ts'
import { MAX_MESSAGE_BYTES } from './request-message.ts'

/** Options of {@link serveBroker}. */
export interface ServeBrokerOptions extends BrokerOffer {
  /** Decides what is given to whom. The credentials are those of who made the connection. */
  allow: BrokerPolicy
}

/** The most requests of one connection that are handled at a time; further ones wait in its socket. */
const MAX_PENDING_REQUESTS = 64

/** What {@link serveBroker} does, until it is closed. */
export class BrokerService implements Disposable {
  readonly #listener: UnixServer
  readonly #roots: Roots
  readonly #handler: RequestHandler
  readonly #channels = new Set<Channel>()

  /** @internal */
  constructor(listener: UnixServer, roots: Roots, handler: RequestHandler) {
    this.#listener = listener
    this.#roots = roots
    this.#handler = handler
    void serveConnections('broker', listener, (socket) => this.#serve(socket))
  }

  #serve(socket: UnixSocket): void {
    if (this.#listener.closed) {
      socket.close() // it was accepted just before
      return
    }
    try {
      const channel = new Channel(socket, { maxBytes: MAX_MESSAGE_BYTES, maxFds: 1, maxPending: MAX_PENDING_REQUESTS })
      this.#channels.add(channel)
      void this.#untilClosed(channel)
      this.#handler.serve(channel)
    } catch {
      socket.close() // it has gone already
    }
  }

  async #untilClosed(channel: Channel): Promise<void> {
    await channel.closed
    this.#channels.delete(channel)
    channel.close()
  }

  /** Stop: close the listener, the connections, and the roots. What was given out stays. */
  close(): void {
    this.#listener.close()
    for (const channel of this.#channels) channel.close()
    this.#roots[Symbol.dispose]()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/**
 * Open files and sockets for other processes, in this one and with its rights: the other end of {@link connectBroker}.
 *
 * Who asks is told by the kernel, for each connection: the credentials of who made it. That process may have passed the
 * connection on, and so to whom it gives is up to who may connect. The protocol is a channel's, with JSON; nothing that
 * comes over it is trusted.
 *
 * While it can accept nothing, for want of a descriptor for one, clients wait in its backlog, and a process warning tells of it, once.
 *
 * @param listener a stream server; this service's from now on, which closes it
 * @param options `roots`, `services`, `allow`
 * @returns what ends it
 * @throws `ENOENT`, `ENOTDIR`, `EACCES` for a root; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE
 */
export function serveBroker(listener: UnixServer, options: ServeBrokerOptions): BrokerService {
  if (!(listener instanceof UnixServer)) throw invalidType('listener', 'an instance of UnixServer', listener)
  if (listener.type !== 'stream') throw invalidValue('listener', "must be of type 'stream'")
  const { roots, services, allow } = optionsOf<Partial<ServeBrokerOptions>>(options) ?? {}
  const policy = policyOf('options.allow', allow)
  const names = servicesOf(services)
  const opened = new Roots(rootsOf(roots))
  const known = names.map((name, index) => parseService(`options.services[${index}]`, name, 'connect'))
  return new BrokerService(listener, opened, new RequestHandler(opened, known, policy))
}
