import { once } from 'node:events'
import { fstatSync } from 'node:fs'
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
  const [input, output] = [fstatSync(fd), fstatSync(1)]
  if (input.isFile() && input.dev === output.dev && input.ino === output.ino && input.size > 0) {
    throw new CliError('Input file is output file')
  }
}
