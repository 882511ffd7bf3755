import { chmodSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Descriptor } from 'fdpass'
import { temporaryFolder } from './descriptors.ts'
import { startFixture } from './processes.ts'

export const folder = temporaryFolder()

chmodSync(folder, 0o755)

// for the other user
export let names = 0

export const newPath = () => join(folder, `socket-${names++}`)

/** The process that a pidfd means, by the kernel's word: -1 once it has ended. */
export function pidOf(pidfd: Descriptor): number {
  return Number(/^Pid:\s+(-?\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, 'utf8'))![1])
}

/** Starts `citizen.ts` as a user, with one end of a pair as its descriptor 3. */
export function startCitizen(
  user: { uid: number; gid: number; groups: readonly number[] },
  path: string,
  words: string
) {
  return startFixture('citizen', [`${user.uid}`, `${user.gid}`, user.groups.join(), path, words])
}
