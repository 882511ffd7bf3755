// What this room offers to the rooms above it, and not to users.
export { frame } from './connection-frame.ts'
export { drainHttp, isHttp } from './drain.ts'
export { type ReceivedConnection, receiveNext, openReceived } from './receive-connection.ts'
