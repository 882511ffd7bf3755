export type { Address } from './unix-address.ts'
