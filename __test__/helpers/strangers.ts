import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from './descriptors.ts'
import { text } from './messages.ts'
import { type Fixture, startFixture } from './processes.ts'

export const folder = temporaryFolder()

chmodSync(folder, 0o755) // for the other user

let names = 0

export const newPath = () => join(folder, `x${names++}`)

/** Starts another user; see stranger.ts. */
export function startStranger(scene: string, ...args: string[]): Fixture {
  return startFixture('stranger', [scene, ...args])
}

/** The lines that another user's process sends, up to its end. */
export async function tell({ socket, done }: Fixture): Promise<string[]> {
  let said = ''
  for (let message = await socket.recv(); message !== null; message = await socket.recv()) said += text(message)
  await done
  socket.close()
  return said.trimEnd().split('\n')
}
