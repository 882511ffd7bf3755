// What this room offers to the rooms above it, and not to users.
export { lengthPrefixed } from './connection-frame.ts'
export { drainHttp, isHttp } from './drain.ts'
export { type ReceivedConnection, receiveNextConnection, openReceivedConnection } from './receive-connection.ts'
