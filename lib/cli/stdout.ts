import { once } from 'node:events'
import { type Stats, fstatSync } from 'node:fs'
import { CliError } from './errors.ts'

/** The number of bytes that are read from a file at a time. */
export const CHUNK_SIZE = 262_144

/** Copies a stream to standard output, with backpressure. */
export async function copyToStdout(input: NodeJS.ReadableStream): Promise<void> {
  for await (const chunk of input) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain')
  }
}

/** Throws if a file is standard output itself: copying it to its own end would never finish. */
export function checkIsNotStdout(fd: number): void {
  const [input, output] = [statusOf(fd), statusOf(1)]
  if (input === undefined || output === undefined) return
  if (input.isFile() && input.dev === output.dev && input.ino === output.ino && input.size > 0) {
    throw new CliError('Input file is output file')
  }
}

/** Returns the status of a descriptor; undefined if its file system refuses fstat(2), or it is closed. */
function statusOf(fd: number): Stats | undefined {
  try {
    return fstatSync(fd)
  } catch {
    return undefined
  }
}
