import { execFileSync } from 'node:child_process'

/**
 * Lowers the limit of open descriptors to that of `startLimited`. A program calls it after its imports: Node opens many modules at a time to
 * load them, more than some tests allow.
 */
export function limitDescriptors(): void {
  const limit = process.env.FDPASS_TEST_FD_LIMIT
  if (limit !== undefined) execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${limit}`])
}
