import { readFileSync } from 'node:fs'
import type { Descriptor } from 'fdpass'
import { type Fixture, startFixture } from './processes.ts'
import { text } from './sockets.ts'

/** The process that a pidfd means, by the kernel's word: -1 once it has ended. */
export function pidOf(pidfd: Descriptor): number {
  return Number(/^Pid:\s+(-?\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, 'utf8'))![1])
}

/** Starts `other-user.ts` as a user, with one end of a pair as its descriptor 3. */
export function startAs(user: { uid: number; gid: number; groups: readonly number[] }, path: string, words: string) {
  return startFixture('other-user', ['credentials', `${user.uid}`, `${user.gid}`, user.groups.join(), path, words])
}

/** Starts another user; see other-user.ts. */
export function startOtherUser(scene: string, ...args: string[]): Fixture {
  return startFixture('other-user', [scene, ...args])
}

/** The lines that another user's process sends, up to its end. */
export async function linesFrom({ socket, done }: Fixture): Promise<string[]> {
  let said = ''
  for (let message = await socket.recv(); message !== null; message = await socket.recv()) said += text(message)
  await done
  socket.close()
  return said.trimEnd().split('\n')
}
