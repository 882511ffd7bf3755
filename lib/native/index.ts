export { isSupported } from './binding.ts'
export type { SystemError } from './system-error.ts'
