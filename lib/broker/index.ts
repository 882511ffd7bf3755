/**
 * A broker opens files and sockets for processes that lack the rights to, and passes them the descriptors.
 *
 * - A helper process of the caller: {@link startBroker}
 * - A broker for other processes: {@link serveBroker}; its clients: {@link connectBroker}
 * - Requests: {@link Broker.open}, {@link Broker.connect}, {@link Broker.listen}
 * - Authorization: {@link BrokerPolicy}, {@link BrokerRequest}
 *
 * @module fdpass/broker
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { Broker, type BrokerListenOptions, type StartBrokerOptions, connectBroker, startBroker } from './broker.ts'
export type {
  BrokerPolicy,
  BrokerRequest,
  ConnectRequest,
  ListenRequest,
  OpenRequest,
  ServiceRequest
} from './policy.ts'
export { BrokerService, type ServeBrokerOptions, serveBroker } from './broker-service.ts'
export type { BrokerOffer } from './settings.ts'
