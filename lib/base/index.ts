export type { ArgumentError } from './errors/argument.ts'
export type { Abortable } from './abort.ts'
export type { Bytes } from './validate.ts'
