import { constants } from 'node:os'
import type { Channel, ChannelReply, ChannelRequest } from '../channel/index.ts'
import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { aborted, pathError } from '../base/internal.ts'
import { native, systemError } from '../native/internal.ts'
import { connectService, listenService, type ServiceAddress } from './service-sockets.ts'
import { openBeneath } from './open-beneath.ts'
import { Opener } from './opener.ts'
import type { BrokerPolicy, BrokerRequest } from './policy.ts'
import type { Roots } from './roots.ts'
import { type RequestMessage, parseRequest } from './request-message.ts'

const { EACCES } = constants.errno

/** Handles the requests of clients, within the roots and services that the policy grants. */
export class RequestHandler {
  readonly #roots: Roots
  readonly #services: ReadonlyMap<string, ServiceAddress>
  readonly #policy: BrokerPolicy
  readonly #opener: Opener

  constructor(roots: Roots, services: readonly ServiceAddress[], policy: BrokerPolicy, openTimeout: number) {
    this.#opener = new Opener(openTimeout)
    this.#roots = roots
    this.#services = new Map(services.map((service) => [service.name, service]))
    this.#policy = policy
  }

  /** Handles the requests of a channel, each after `noteRequest` has resolved. */
  serve(channel: Channel, noteRequest?: (signal: AbortSignal) => Promise<void> | undefined): void {
    const credentials = channel.socket.peer()
    channel.onRequest(async (request) => {
      request.close() // a request carries no descriptors
      await noteRequest?.(request.signal)
      return this.#reply(request, credentials)
    })
  }

  async #reply(request: ChannelRequest, credentials: Credentials): Promise<ChannelReply> {
    const { signal } = request
    const descriptor = await this.#handle(parseRequest(request.value), credentials, signal)
    return { fds: [descriptor] }
  }

  async #handle(message: RequestMessage, credentials: Credentials, signal: AbortSignal): Promise<Descriptor> {
    if (message.operation === 'open') {
      const denied = () => pathError(-EACCES, 'openat2', message.path)
      return openBeneath(this.#roots, message, {
        authorize: (request) => this.#authorize(request, credentials, signal, denied),
        run: (start) => this.#opener.run(credentials.uid, start, signal),
        closeApart: (fd) => native.setSender(fd, credentials.uid)
      })
    }
    const { operation, address } = message
    const denied = () => systemError(-EACCES, operation, address)
    const service = this.#services.get(address)
    if (service === undefined) throw denied()
    if (operation === 'connect') {
      await this.#authorize({ operation, address }, credentials, signal, denied)
      return connectService(service, signal)
    }
    const { backlog, mode } = message
    await this.#authorize({ operation, address, backlog, mode }, credentials, signal, denied)
    return listenService(service, backlog, mode ?? undefined)
  }

  async #authorize(
    request: BrokerRequest,
    credentials: Credentials,
    signal: AbortSignal,
    denied: () => Error
  ): Promise<void> {
    let isAllowed: unknown
    try {
      isAllowed = await this.#policy(Object.freeze(request), credentials)
    } catch (error) {
      warnOfPolicy(error)
    }
    if (signal.aborted) throw aborted(signal) // the client no longer waits: open nothing
    if (isAllowed !== true) throw denied()
  }
}

let warned = false

/** Warns, once, that a policy threw: the client only sees EACCES, as for a denial. */
function warnOfPolicy(error: unknown): void {
  if (warned) return
  warned = true
  const reason = error instanceof Error ? error.message : String(error)
  process.emitWarning(`The policy of a broker threw, and the request was denied: ${reason}`, {
    code: 'FDPASS_POLICY_FAILED',
    detail: 'Further failures are not reported.'
  })
}
