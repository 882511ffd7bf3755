export { adoptConnection } from './adopt-connection.ts'
export { handOver } from './hand-over.ts'
export { type ReceiveConnectionOptions, receiveConnection } from './receive-connection.ts'
