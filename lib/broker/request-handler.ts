import { constants } from 'node:os'
import type { Channel, ChannelReply, ChannelRequest } from '../channel/index.ts'
import type { Credentials } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { aborted, pathError } from '../base/internal.ts'
import { systemError } from '../native/internal.ts'
import { connectService, listenService } from './service-sockets.ts'
import { openBeneath } from './open-beneath.ts'
import type { BrokerPolicy, BrokerRequest } from './policy.ts'
import type { Roots } from './roots.ts'
import type { ServiceAddress } from './service-address.ts'
import { type RequestMessage, parseRequest } from './request-message.ts'

const { EACCES } = constants.errno

/** Where wishes are granted: what there is, and who may have it. */
export class RequestHandler {
  readonly #roots: Roots
  readonly #services: ReadonlyMap<string, ServiceAddress>
  readonly #policy: BrokerPolicy

  constructor(roots: Roots, services: readonly ServiceAddress[], policy: BrokerPolicy) {
    this.#roots = roots
    this.#services = new Map(services.map((service) => [service.name, service]))
    this.#policy = policy
  }

  /** Answers the requests of a channel. */
  serve(channel: Channel): void {
    const credentials = channel.socket.peer()
    channel.onRequest((request) => this.#answer(request, credentials))
  }

  async #answer(request: ChannelRequest, credentials: Credentials): Promise<ChannelReply> {
    request.close() // nobody asked for descriptors
    const { signal } = request
    const descriptor = await this.#grant(parseRequest(request.value), credentials, signal)
    return { fds: [descriptor] }
  }

  async #grant(message: RequestMessage, credentials: Credentials, signal: AbortSignal): Promise<Descriptor> {
    if (message.operation === 'open') {
      const { path } = message
      return openBeneath(this.#roots, message, async (request) => {
        await this.#ask(request, credentials, signal, () => pathError(-EACCES, 'openat2', path))
      })
    }
    const { operation, address } = message
    const refused = () => systemError(-EACCES, operation, address)
    const service = this.#services.get(address)
    if (service === undefined) throw refused()
    await this.#ask({ operation, address }, credentials, signal, refused)
    return operation === 'connect'
      ? connectService(service, signal)
      : listenService(service, message.backlog, message.mode)
  }

  async #ask(
    request: BrokerRequest,
    credentials: Credentials,
    signal: AbortSignal,
    refused: () => Error
  ): Promise<void> {
    let isAllowed: unknown
    try {
      isAllowed = await this.#policy(Object.freeze(request), credentials)
    } catch (error) {
      warnOfPolicy(error)
    }
    if (signal.aborted) throw aborted(signal) // before anything is done for nobody
    if (isAllowed !== true) throw refused()
  }
}

let warned = false

/** A policy that fails refuses, which would otherwise be hard to tell from one that says no. */
function warnOfPolicy(error: unknown): void {
  if (warned) return
  warned = true
  const reason = error instanceof Error ? error.message : String(error)
  process.emitWarning(`A broker's policy failed, and what was asked for was refused: ${reason}`, {
    code: 'FDPASS_POLICY_FAILED',
    detail: 'Further failures are not reported.'
  })
}
