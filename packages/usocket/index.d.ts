export {
  UServer,
  type UServerListenOptions,
  USocket,
  type USocketMessage,
  type USocketOptions,
  type USocketRead
} from 'fdpass/usocket'
