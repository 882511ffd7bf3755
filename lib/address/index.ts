export type { Address } from './socket-address.ts'
export type { SocketFileOptions } from './socket-file.ts'
