// What this room offers to the rooms above it, and not to users.
export {
  lengthPrefixed,
  type ReceivedConnection,
  receiveNextConnection,
  openReceivedConnection
} from './receive-connection.ts'
export { type ServerOptions, isServer, serveConnection } from './adopt-connection.ts'
export { KILL_MARGIN_MS, ServerDrain } from './drain.ts'
