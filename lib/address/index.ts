export type { Address } from './socket-address.ts'
