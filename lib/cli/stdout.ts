import { once } from 'node:events'
import { fstatSync } from 'node:fs'
import { CliError } from './errors.ts'

/** How many bytes of a file are read at a time. */
export const CHUNK_SIZE = 262_144

/** Copies something to standard output, no faster than that takes it. */
export async function copyToStdout(input: NodeJS.ReadableStream): Promise<void> {
  for await (const chunk of input) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain')
  }
}

/** Throws for a file that would be copied to its own end, which would never come. */
export function checkIsNotStdout(fd: number): void {
  const [input, output] = [fstatSync(fd), fstatSync(1)]
  if (input.isFile() && input.dev === output.dev && input.ino === output.ino && input.size > 0) {
    throw new CliError('Input file is output file')
  }
}
