import { type Descriptor, wrapFd } from './descriptor.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'

/**
 * Creates a pipe: pipe2(2). Both ends are close-on-exec and in blocking mode, which programs expect of their standard input and output.
 *
 * @returns the end to read from and the end to write to, which the caller owns
 * @throws `EMFILE`; ERR_UNSUPPORTED_PLATFORM
 */
export function pipe(): [read: Descriptor, write: Descriptor] {
  openReactor()
  const ends = native.pipe()
  if (typeof ends === 'number') throw systemError(ends, 'pipe')
  const [read, write] = ends
  return [wrapFd(read), wrapFd(write)]
}
