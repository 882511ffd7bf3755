import { Descriptor } from 'fdpass'
import { readAll } from './descriptors.ts'

/** What each descriptor's file holds; closes them. */
export function contentsOf(fds: readonly Descriptor[]): string[] {
  const contents = fds.map(({ fd }) => readAll(fd))
  fds.forEach((fd) => fd.closeSync())
  return contents
}
