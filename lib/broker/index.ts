/**
 * A broker opens files and sockets for processes that may not do so themselves, and passes them the descriptors.
 *
 * - A helper of this process's own: {@link startBroker}
 * - For others: {@link serveBroker}, {@link connectBroker}
 * - What is asked for: {@link Broker.open}, {@link Broker.connect}, {@link Broker.listen}
 * - Who may have what: {@link BrokerPolicy}, {@link BrokerRequest}
 *
 * @module fdpass/broker
 */
import '../socket/index.ts' // adds the casts to Descriptor
export { Broker, type BrokerListenOptions, type StartBrokerOptions, connectBroker, startBroker } from './broker.ts'
export type { BrokerPolicy, BrokerRequest, OpenRequest, ServiceRequest } from './policy.ts'
export { BrokerService, type ServeBrokerOptions, serveBroker } from './broker-service.ts'
export type { BrokerOffer } from './settings.ts'
