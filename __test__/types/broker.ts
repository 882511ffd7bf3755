import * as broker from 'fdpass/broker'
import type {
  BrokerListenOptions,
  BrokerOffer,
  BrokerPolicy,
  BrokerRequest,
  OpenRequest,
  ServeBrokerOptions,
  ServiceRequest,
  StartBrokerOptions
} from 'fdpass/broker'
import type { Descriptor, UnixServer } from 'fdpass'
import { exactly, same } from './exactly.ts'

same<keyof typeof broker, 'Broker' | 'BrokerService' | 'connectBroker' | 'serveBroker' | 'startBroker'>()

export type Types = [BrokerListenOptions, BrokerOffer, ServeBrokerOptions, ServiceRequest, StartBrokerOptions]

declare const server: UnixServer

/** A policy sees what is asked for by its operation. */
const policy: BrokerPolicy = (request, { uid }) => {
  exactly<BrokerRequest>()(request)
  if (request.operation !== 'open') return request.address === 'tcp:127.0.0.1:80'
  exactly<OpenRequest>()(request)
  return uid === 0 && request.kind === 'file' && request.resolved !== null
}

export async function use(): Promise<void> {
  const one = await broker.startBroker({ user: 'nobody', roots: ['/var/log'], services: [], allow: policy })
  exactly<Descriptor>()(await one.open('syslog', 'r', 0o600))
  exactly<Descriptor>()(await one.connect('/run/x.sock', { signal: AbortSignal.timeout(1) }))
  exactly<number | null>()(one.pid)
  // @ts-expect-error A policy is needed where others connect.
  broker.serveBroker(server, { roots: [] })
  // @ts-expect-error There is a function that makes it.
  new broker.Broker()
}
