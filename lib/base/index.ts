export type { ArgumentError } from './errors.ts'
export type { Abortable } from './abort.ts'
export type { Bytes } from './validate.ts'
