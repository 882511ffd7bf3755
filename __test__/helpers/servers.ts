import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { UnixSocket } from 'fdpass'
import { temporaryFolder } from './descriptors.ts'

export const folder = temporaryFolder()

/** A free path in a folder of its own. */
export function newPath(): string {
  return join(mkdtempSync(join(folder, 'test-')), 'socket')
}

/** Whether the peer of a socket has closed, by its end. */
export async function hasEnded(socket: UnixSocket): Promise<boolean> {
  try {
    return (await socket.recv()) === null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNRESET'
  }
}
