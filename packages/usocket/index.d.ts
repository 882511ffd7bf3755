export {
  UServer,
  type UServerListenOptions,
  USocket,
  type USocketCallback,
  type USocketMessage,
  type USocketOptions,
  type USocketRead
} from 'fdpass/usocket'
